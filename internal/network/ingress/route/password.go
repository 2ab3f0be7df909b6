package route

import (
	"crypto/md5"  //nolint:gosec // what htpasswd made for many years
	"crypto/sha1" //nolint:gosec // as above
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

const (
	apr1 = "$apr1$"
	sha  = "{SHA}"
)

// KnownHash says whether CheckPassword understands a hash: bcrypt, and the older $apr1$ and {SHA} of htpasswd.
func KnownHash(hash string) bool {
	switch {
	case strings.HasPrefix(hash, sha):
		sum, err := base64.StdEncoding.DecodeString(hash[len(sha):])
		return err == nil && len(sum) == sha1.Size
	case strings.HasPrefix(hash, apr1):
		salt, sum, ok := strings.Cut(hash[len(apr1):], "$")
		return ok && salt != "" && len(salt) <= 8 && len(sum) == 22
	}
	cost, err := bcrypt.Cost([]byte(hash))
	const most = 14 // a second; more would let anybody keep a node busy
	return err == nil && cost <= most
}

// CheckPassword says whether a password has a hash. It takes as long as the hash wants: with bcrypt many milliseconds.
func CheckPassword(hash, password string) bool {
	switch {
	case strings.HasPrefix(hash, sha):
		sum := sha1.Sum([]byte(password)) //nolint:gosec // as above
		return subtle.ConstantTimeCompare([]byte(base64.StdEncoding.EncodeToString(sum[:])), []byte(hash[len(sha):])) == 1
	case strings.HasPrefix(hash, apr1):
		salt, sum, _ := strings.Cut(hash[len(apr1):], "$")
		return subtle.ConstantTimeCompare([]byte(apr1Sum(password, salt)), []byte(sum)) == 1
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
}

// apr1Sum is Apache's variant of the MD5 crypt.
func apr1Sum(password, salt string) string {
	inner := md5.Sum([]byte(password + salt + password)) //nolint:gosec // as above
	var text []byte
	text = append(text, password...)
	text = append(text, apr1...)
	text = append(text, salt...)
	for n := len(password); n > 0; n -= md5.Size {
		text = append(text, inner[:min(n, md5.Size)]...)
	}
	for n := len(password); n > 0; n >>= 1 {
		if n&1 == 1 {
			text = append(text, 0)
		} else {
			text = append(text, password[0])
		}
	}
	sum := md5.Sum(text) //nolint:gosec // as above
	for i := range 1000 {
		text = text[:0]
		if i%2 == 1 {
			text = append(text, password...)
		} else {
			text = append(text, sum[:]...)
		}
		if i%3 != 0 {
			text = append(text, salt...)
		}
		if i%7 != 0 {
			text = append(text, password...)
		}
		if i%2 == 1 {
			text = append(text, sum[:]...)
		} else {
			text = append(text, password...)
		}
		sum = md5.Sum(text) //nolint:gosec // as above
	}
	const alphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	out := make([]byte, 0, 22)
	put := func(v uint, n int) {
		for range n {
			out = append(out, alphabet[v&0x3f])
			v >>= 6
		}
	}
	for _, g := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		put(uint(sum[g[0]])<<16|uint(sum[g[1]])<<8|uint(sum[g[2]]), 4)
	}
	put(uint(sum[11]), 2)
	return string(out)
}
