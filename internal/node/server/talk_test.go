package server

import (
	"io"
	"net"
	"time"
)

// talk sends a text to an address and reads the answer.
func talk(address, text string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	data, err := io.ReadAll(conn)
	return string(data), err
}
