"""The words that a kubelet would start the one container of a Deployment with, but for the program.

Reads the Deployment as JSON on stdin; the argument is the pod's name. Prints `NAME=value` words, an empty one, and the
arguments, each ended by a NUL.
"""

import json
import sys

deployment = json.load(sys.stdin)
(container,) = deployment["spec"]["template"]["spec"]["containers"]
fields = {"metadata.name": sys.argv[1], "metadata.namespace": deployment["metadata"]["namespace"]}


def value(variable):
    if "valueFrom" in variable:
        return fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
    return variable.get("value", "")


words = [f"{variable['name']}={value(variable)}" for variable in container["env"]]
sys.stdout.write("".join(word + "\0" for word in [*words, "", *container["args"]]))
