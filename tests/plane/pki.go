package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Names of the files in the plane's directory.
const (
	caCert     = "ca.crt"
	serverCert = "server.crt"
	serverKey  = "server.key"
	adminCert  = "admin.crt"
	adminKey   = "admin.key"
	saKey      = "sa.key"
	saPub      = "sa.pub"
)

// writePKI writes the CA, the certificates of the servers and of the
// administrator, and the key pair that signs service-account tokens.
func writePKI(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := template("testplane-ca", "")
	root.IsCA = true
	root.BasicConstraintsValid = true
	root.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return err
	}
	if err := writePEM(dir, caCert, "CERTIFICATE", der); err != nil {
		return err
	}
	// Parsed again because issue needs the key identifier that was added.
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}

	server := template("testplane-server", "")
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	server.DNSNames = []string{"localhost"}
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	if err := issue(dir, serverCert, serverKey, server, ca, key); err != nil {
		return err
	}
	admin := template("testplane-admin", "system:masters")
	admin.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if err := issue(dir, adminCert, adminKey, admin, ca, key); err != nil {
		return err
	}
	return writeTokenKeys(dir)
}

// template is valid from a year ago for 100 years, since tests move the clocks
// of the clients they start.
func template(name, group string) *x509.Certificate {
	subject := pkix.Name{CommonName: name}
	if group != "" {
		subject.Organization = []string{group}
	}
	return &x509.Certificate{
		Subject:   subject,
		NotBefore: time.Now().AddDate(-1, 0, 0),
		NotAfter:  time.Now().AddDate(100, 0, 0),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}
}

func issue(dir, certFile, keyFile string, leaf, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	if err := writePEM(dir, certFile, "CERTIFICATE", der); err != nil {
		return err
	}
	return writeKey(dir, keyFile, key)
}

func writeTokenKeys(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(dir, saPub, "PUBLIC KEY", public); err != nil {
		return err
	}
	return writeKey(dir, saKey, key)
}

func writeKey(dir, file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(dir, file, "PRIVATE KEY", der)
}

func writePEM(dir, file, kind string, der []byte) error {
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return os.WriteFile(filepath.Join(dir, file), data, 0o600)
}
