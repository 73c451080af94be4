// Go: sends back every message of 100 bytes, each with a write of its own, or (`messages bufio`) through a
// bufio.Writer that is flushed when no whole message is left to read.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
)

const size = 100

func echo(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 65536)
	message := make([]byte, size)
	for {
		if _, err := io.ReadFull(reader, message); err != nil {
			return
		}
		if _, err := conn.Write(message); err != nil {
			return
		}
	}
}

func buffered(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 65536)
	writer := bufio.NewWriterSize(conn, 65536)
	message := make([]byte, size)
	for {
		if _, err := io.ReadFull(reader, message); err != nil {
			return
		}
		writer.Write(message)
		if reader.Buffered() >= size {
			continue
		}
		if writer.Flush() != nil {
			return
		}
	}
}

func main() {
	serve := echo
	if len(os.Args) > 1 {
		serve = buffered
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(server.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := server.Accept()
		if err != nil {
			panic(err)
		}
		go serve(conn)
	}
}
