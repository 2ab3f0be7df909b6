package podresources

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a protobuf message. Three methods don't need the code that is generated for the service, which is as large as the rest of this package many times.
type message []byte

func (m message) text(number protowire.Number, s string) message {
	if s == "" {
		return m
	}
	return protowire.AppendString(protowire.AppendTag(m, number, protowire.BytesType), s)
}

func (m message) number(number protowire.Number, n int64) message {
	if n == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, number, protowire.VarintType), uint64(n))
}

func (m message) message(number protowire.Number, sub message) message {
	return protowire.AppendBytes(protowire.AppendTag(m, number, protowire.BytesType), sub)
}

// texts reads the first two fields of a message, which are texts.
func (m message) texts() (first, second string, err error) {
	for len(m) > 0 {
		number, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			return "", "", protowire.ParseError(n)
		}
		m = m[n:]
		n = protowire.ConsumeFieldValue(number, kind, m)
		if n < 0 {
			return "", "", protowire.ParseError(n)
		}
		if kind == protowire.BytesType {
			switch value, _ := protowire.ConsumeString(m); number {
			case 1:
				first = value
			case 2:
				second = value
			}
		}
		m = m[n:]
	}
	return first, second, nil
}

// codec passes messages as they are.
type codec struct{}

// Name implements encoding.Codec: it is what clients say they send.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.Codec.
func (codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	return m, nil
}

// Unmarshal implements encoding.Codec.
func (codec) Unmarshal(data []byte, v any) error {
	m, ok := v.(*message)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	*m = append(message{}, data...) // the buffer is used again
	return nil
}
