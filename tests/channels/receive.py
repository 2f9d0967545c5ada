"""A receiver of webhooks, with the code that a page of the documentation has for it.

usage: receive.py PAGE < deliveries, one a line: {"secret", "headers", "body"}

It prints each event as one line of JSON. The first delivery that is not good ends it, with exit code 1 and the reason.
"""

import json
import pathlib
import re
import sys

from standardwebhooks import WebhookVerificationError


def main(page: str) -> None:
    [code] = re.findall(r"```python\n(.*?)```", pathlib.Path(page).read_text(), re.DOTALL)
    scope: dict = {}
    exec(compile(code, page, "exec"), scope)
    for line in sys.stdin:
        delivery = json.loads(line)
        try:
            event = scope["receive"](delivery["secret"], delivery["headers"], delivery["body"].encode())
        except WebhookVerificationError as error:
            sys.exit(f"refused: {error}")
        attributes = event.get_attributes()
        attributes["time"] = attributes["time"].isoformat()
        print(json.dumps({"attributes": attributes, "data": event.get_data()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
