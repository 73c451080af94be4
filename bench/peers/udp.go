// Go: an echo server for datagrams, one loop.
package main

import (
	"fmt"
	"net"
)

func main() {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		panic(err)
	}
	fmt.Println(server.LocalAddr().(*net.UDPAddr).Port)
	buffer := make([]byte, 65536)
	for {
		n, sender, err := server.ReadFromUDPAddrPort(buffer)
		if err == nil {
			server.WriteToUDPAddrPort(buffer[:n], sender)
		}
	}
}
