package pki

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig returns a kubeconfig file that holds everything inside: server is the URL of the API server, the rest is PEM. The
// user is named as the certificate's common name.
func Kubeconfig(server string, ca, cert, key []byte) ([]byte, error) {
	c, err := parseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("make a kubeconfig: the client certificate: %w", err)
	}
	const name = "celox"
	userName := c.Subject.CommonName
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[userName] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: userName}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("make a kubeconfig: %w", err)
	}
	return data, nil
}
