"""Moto's server for one test process: AWS on a free port of loopback.

Prints the port, then answers each line of stdin, [service, operation, arguments], with a line of JSON: what boto3 got.
Ends when stdin does.
"""

import json
import sys

import boto3
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
port = server.get_host_and_port()[1]
print(port, flush=True)

clients = {}


def client(service):
    if service not in clients:
        clients[service] = boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="eu-central-1",
            aws_access_key_id="AKIAADMINISTRATOR",
            aws_secret_access_key="administrator",
        )
    return clients[service]


for line in sys.stdin:
    service, operation, arguments = json.loads(line)
    try:
        answer = getattr(client(service), operation)(**arguments)
    except ClientError as error:
        answer = {"error": error.response["Error"]["Code"]}
    print(json.dumps(answer, default=str), flush=True)
