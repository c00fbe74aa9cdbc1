#!/usr/bin/env python3
"""Sums the cost of a Terraform plan and refuses it above a limit, when it destroys, or when it
does not say what something costs.

usage: terraform show -json saved.tfplan |
         ./review.py --max-per-month 50 [--allow-destroy] [--allow-unknown]

Prints a table for the reviewer. Exit status: 0 within the limit, 1 refused, 2 not a plan.
"""

import argparse
import json
import sys
from decimal import Decimal


PRICE = "price_per_month"


def monthly(values, unknown=None):
    """EUR a month of one resource, 0 where it has no price; None where that is known at apply."""
    if isinstance(unknown, dict) and unknown.get(PRICE):
        return None
    return Decimal(str((values or {}).get(PRICE) or 0))


def shown(price):
    """A price for the table."""
    return "unknown" if price is None else f"{price:.2f}"


def review(plan):
    """Rows (address, actions, before, after), and the addresses that would be destroyed."""
    if plan.get("errored"):
        raise ValueError("it ended with an error")
    rows, destroyed = [], []
    for resource in plan.get("resource_changes", []):
        change = resource["change"]
        if resource["mode"] != "managed":
            continue
        if "delete" in change["actions"]:
            destroyed.append(resource["address"])
        before = monthly(change["before"])
        after = monthly(change["after"], change.get("after_unknown"))
        rows.append((resource["address"], "/".join(change["actions"]), before, after))
    return rows, destroyed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-per-month", type=Decimal, required=True, metavar="EUR")
    parser.add_argument("--allow-destroy", action="store_true")
    parser.add_argument("--allow-unknown", action="store_true")
    options = parser.parse_args()
    try:
        plan = json.load(sys.stdin, parse_float=Decimal)
        rows, destroyed = review(plan)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"not a plan in JSON (from `terraform show -json FILE`): {error}", file=sys.stderr)
        return 2
    width = max([len(row[0]) for row in rows] + [8])
    print(f"{'resource':<{width}}  {'action':<14} {'EUR/month now':>14} {'after':>10}")
    for address, action, before, after in rows:
        print(f"{address:<{width}}  {action:<14} {shown(before):>14} {shown(after):>10}")
    total = sum(row[3] or 0 for row in rows)
    unknown = [row[0] for row in rows if row[3] is None]
    print(f"{'total':<{width}}  {'':<14} {sum(row[2] for row in rows):>14.2f} {total:>10.2f}")
    if destroyed and not options.allow_destroy:
        print(f"refused: it destroys {', '.join(destroyed)} (see --allow-destroy)", file=sys.stderr)
        return 1
    if unknown and not options.allow_unknown:
        print(
            f"refused: the plan does not say what {', '.join(unknown)} will cost: give flavors and"
            " sizes that are known at plan, or see --allow-unknown",
            file=sys.stderr,
        )
        return 1
    if total > options.max_per_month:
        print(f"refused: {total:.2f} EUR a month, at most {options.max_per_month} allowed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
