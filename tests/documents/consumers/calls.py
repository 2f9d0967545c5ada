import sys

import consumer

for _ in sys.stdin:
    print(consumer.call(sys.argv[1], sys.argv[2]).status_code, flush=True)
