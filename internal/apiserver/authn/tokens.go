package authn

import (
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Tokens are fixed tokens and whom they stand for, kept by the token's hash so that comparing them tells nothing by its time.
type Tokens map[[sha256.Size]byte]*user.DefaultInfo

func (t Tokens) lookup(token string) (user.Info, bool) {
	if len(t) == 0 {
		return nil, false
	}
	u, ok := t[sha256.Sum256([]byte(token))]
	if !ok {
		return nil, false
	}
	return u, true
}

// ParseTokens reads upstream's token file: a CSV with the columns token, user name, user uid and, optionally, the groups
// separated by commas inside quotes.
func ParseTokens(r io.Reader) (Tokens, error) {
	c := csv.NewReader(r)
	c.FieldsPerRecord = -1
	c.TrimLeadingSpace = true
	tokens := Tokens{}
	for {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			return tokens, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read token file: %w", err)
		}
		line, _ := c.FieldPos(0)
		if len(record) < 3 || record[0] == "" || record[1] == "" {
			return nil, fmt.Errorf("read token file: line %d: want token,user,uid[,\"group1,group2\"]", line)
		}
		u := &user.DefaultInfo{Name: record[1], UID: record[2]}
		if len(record) > 3 && record[3] != "" {
			u.Groups = strings.Split(record[3], ",")
		}
		u.Groups = withAuthenticated(u.Groups)
		key := sha256.Sum256([]byte(record[0]))
		if _, ok := tokens[key]; ok {
			return nil, fmt.Errorf("read token file: line %d: the token is there twice", line)
		}
		tokens[key] = u
	}
}
