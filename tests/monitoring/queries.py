"""What PromQL queries ask for.

Reads a JSON list of queries on stdin and prints a JSON list as long: for each query its selectors, each as the name of the
metric and the labels that the series must have: those that the selector matches and those that an enclosing `by` or `on`
names.
"""

import json
import sys

import promql_parser as promql


def selectors(node, labels=frozenset()):
    match node:
        case promql.VectorSelector():
            matched = {matcher.name for matcher in node.matchers.matchers}
            yield node.name, sorted(labels | matched)
        case promql.MatrixSelector():
            yield from selectors(node.vector_selector, labels)
        case promql.AggregateExpr():
            grouped = frozenset(node.modifier.labels) if node.modifier else frozenset()
            yield from selectors(node.expr, labels | grouped)
        case promql.BinaryExpr():
            matching = node.modifier.matching if node.modifier else None
            on = frozenset(matching.labels) if matching else frozenset()
            # The labels of the result are those of the left side.
            yield from selectors(node.lhs, labels | on)
            yield from selectors(node.rhs, on if matching else labels)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from selectors(node.expr, labels)
        case promql.Call():
            for argument in node.args:
                yield from selectors(argument, labels)
        case promql.NumberLiteral() | promql.StringLiteral():
            pass
        case _:
            raise TypeError(f"unknown expression {node!r}")


json.dump([list(selectors(promql.parse(query))) for query in json.load(sys.stdin)], sys.stdout)
