// Package http1 reads HTTP/1 messages as RFC 9112 has them, for a proxy: it must never understand a message differently from who reads it next. So requests are
// taken to the letter, and what is ambiguous is an error; of answers, whose senders are known, lines may end without a carriage return.
//
// It reads from a buffer without copying: what it returns are parts of the buffer, good until the buffer is filled again. It knows no sockets and no rules.
package http1
