// Command verifier is a service in Go that checks tokens offline, with go-oidc.
//
// usage: verifier ISSUER AUDIENCE < tokens, one a line
//
// It knows the issuer's URL and nothing else of ours. It prints the claims of each
// token as one line of JSON. The first token that is not good ends it, with exit
// code 1 and the reason.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: verifier ISSUER AUDIENCE < tokens")
		os.Exit(2)
	}
	if err := verify(os.Args[1], os.Args[2], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}

func verify(issuer, audience string, tokens io.Reader, claims io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// It reads the discovery document and insists on the same issuer in it.
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return err
	}
	// The algorithms are those that the document names.
	verifier := provider.VerifierContext(ctx, &oidc.Config{ClientID: audience})
	lines := bufio.NewScanner(tokens)
	for lines.Scan() {
		token, err := verifier.Verify(ctx, lines.Text())
		if err != nil {
			return err
		}
		var all map[string]any
		if err := token.Claims(&all); err != nil {
			return err
		}
		if err := json.NewEncoder(claims).Encode(all); err != nil {
			return err
		}
	}
	return lines.Err()
}
