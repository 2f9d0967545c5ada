"""A service in Python that checks tokens offline, with PyJWT and its JWKS client.

usage: verify.py ISSUER AUDIENCE < tokens, one a line

It knows the issuer's URL and nothing else of ours. It prints the claims of each token as one line of JSON. The first
token that is not good ends it, with exit code 1 and the reason.
"""

import json
import sys
import urllib.request

import jwt


def main(issuer: str, audience: str) -> None:
    with urllib.request.urlopen(f"{issuer}/.well-known/openid-configuration", timeout=10) as answer:
        metadata = json.load(answer)
    if metadata["issuer"] != issuer:
        sys.exit(f"the discovery document names the issuer {metadata['issuer']}")
    keys = jwt.PyJWKClient(metadata["jwks_uri"], timeout=10)
    for line in sys.stdin:
        token = line.strip()
        try:
            claims = jwt.decode(
                token,
                keys.get_signing_key_from_jwt(token),
                algorithms=metadata["id_token_signing_alg_values_supported"],
                audience=audience,
                issuer=issuer,
                options={"require": ["iss", "sub", "aud", "iat", "exp", "jti"]},
            )
        except jwt.PyJWTError as error:
            sys.exit(f"refused: {error}")
        print(json.dumps(claims))


if __name__ == "__main__":
    main(*sys.argv[1:])
