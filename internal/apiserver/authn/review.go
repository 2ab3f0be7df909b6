package authn

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
)

// ReviewToken tells whose a token is, and which of the asked audiences it is good for; without any it is this API server's
// own name. The error's text is for the one who asked.
func (a *Authenticator) ReviewToken(ctx context.Context, token string, audiences []string) (u user.Info, goodFor []string, err error) {
	t, err := a.AuthenticateToken(ctx, token, audiences)
	if err != nil {
		return nil, nil, err
	}
	if len(audiences) == 0 && len(t.Audiences) > 1 {
		t.Audiences = t.Audiences[:1]
	}
	return t.User, t.Audiences, nil
}
