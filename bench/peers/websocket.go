// Go has no WebSocket in its standard library: this is a minimal echo server, over net/http's hijack.
// It checks neither UTF-8 nor the rest of the protocol.
package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
)

func echo(conn net.Conn, reader *bufio.Reader) error {
	head := make([]byte, 14)
	var payload, frame []byte
	for {
		if _, err := io.ReadFull(reader, head[:2]); err != nil {
			return err
		}
		length := int(head[1] & 127)
		extended := 0
		if length == 126 {
			extended = 2
		} else if length == 127 {
			extended = 8
		}
		if _, err := io.ReadFull(reader, head[2:6+extended]); err != nil {
			return err
		}
		if extended == 2 {
			length = int(binary.BigEndian.Uint16(head[2:]))
		} else if extended == 8 {
			length = int(binary.BigEndian.Uint64(head[2:]))
		}
		if cap(payload) < length {
			payload = make([]byte, length)
		}
		payload = payload[:length]
		if _, err := io.ReadFull(reader, payload); err != nil {
			return err
		}
		key := head[2+extended : 6+extended]
		word := uint64(binary.LittleEndian.Uint32(key))
		word |= word << 32
		i := 0
		for ; i+8 <= length; i += 8 {
			binary.LittleEndian.PutUint64(payload[i:], binary.LittleEndian.Uint64(payload[i:])^word)
		}
		for ; i < length; i++ {
			payload[i] ^= key[i&3]
		}
		frame = append(frame[:0], head[0], head[1]&127)
		frame = append(frame, head[2:2+extended]...)
		frame = append(frame, payload...)
		if _, err := conn.Write(frame); err != nil {
			return err
		}
	}
}

func handle(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, both, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	echo(conn, both.Reader)
}

func main() {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(server.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(server, http.HandlerFunc(handle)))
}
