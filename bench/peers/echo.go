// Go: a goroutine for each connection; with a port as argument, a proxy to it with two for each connection.
// With TLS_CERT and TLS_KEY in the environment, it echoes over TLS.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
)

func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 65536)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			if _, err := conn.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func proxy(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		return
	}
	defer server.Close()
	go pump(server, client)
	pump(client, server)
}

func pump(to net.Conn, from net.Conn) {
	io.Copy(to, from)
	to.(*net.TCPConn).CloseWrite()
}

func main() {
	serve := echo
	if len(os.Args) > 1 {
		serve = proxy
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(server.Addr().(*net.TCPAddr).Port)
	if file := os.Getenv("TLS_CERT"); file != "" {
		pair, err := tls.LoadX509KeyPair(file, os.Getenv("TLS_KEY"))
		if err != nil {
			panic(err)
		}
		server = tls.NewListener(server, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	for {
		conn, err := server.Accept()
		if err != nil {
			panic(err)
		}
		go serve(conn)
	}
}
