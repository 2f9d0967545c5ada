// A service in JavaScript that checks tokens offline, with jose and its remote JWKS.
//
// usage: node verify.mjs ISSUER AUDIENCE < tokens, one a line
//
// It knows the issuer's URL and nothing else of ours. It prints the claims of each token as one line of JSON. The first
// token that is not good ends it, with exit code 1 and the reason.

import { createInterface } from 'node:readline';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const [issuer, audience] = process.argv.slice(2);

// RFC 8414: the name that a client of plain OAuth asks for.
const answer = await fetch(`${issuer}/.well-known/oauth-authorization-server`);
const metadata = await answer.json();
if (metadata.issuer !== issuer) throw new Error(`the metadata names the issuer ${metadata.issuer}`);
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));

for await (const token of createInterface({ input: process.stdin })) {
  const { payload } = await jwtVerify(token, keys, {
    issuer,
    audience,
    typ: 'at+jwt',
    requiredClaims: ['sub', 'iat', 'exp', 'jti', 'client_id'],
  }).catch((error) => {
    console.error(`refused: ${error.message}`);
    process.exit(1);
  });
  console.log(JSON.stringify(payload));
}
