# shellcheck shell=bash
# What the scripts share: where things are kept, how they speak, how they find Terraform.
# Sourced, never run. Sets REPO, CACHE, VENV; refuses to guess when something is missing.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Downloads and the Terraform built from them outlive a clone, so that a second clone is quick.
CACHE="${FAIRMAZON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fairmazon}"
# shellcheck disable=SC2034  # for those who source this
VENV="$CACHE/venv"
export CHECKPOINT_DISABLE=1

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Where cargo puts what it builds, whatever the configuration says.
target_dir() {
  cargo metadata --manifest-path "$REPO/Cargo.toml" --format-version 1 --no-deps |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# The Terraform to use: FAIRMAZON_TERRAFORM, else the one scripts/setup made, else one on PATH.
terraform_cli() {
  if [ -n "${FAIRMAZON_TERRAFORM:-}" ]; then
    [ -x "$(command -v "$FAIRMAZON_TERRAFORM")" ] || die "FAIRMAZON_TERRAFORM=$FAIRMAZON_TERRAFORM is not a program that can be run; point it at terraform or tofu, or unset it"
    command -v "$FAIRMAZON_TERRAFORM"
  elif [ -x "$CACHE/bin/terraform" ]; then say "$CACHE/bin/terraform"
  elif have tofu; then command -v tofu
  elif have terraform; then command -v terraform
  else die "no Terraform found: run scripts/setup, or set FAIRMAZON_TERRAFORM to the path of terraform or tofu"
  fi
}

# Milliseconds of a clock that only goes forward.
now_ms() { awk '{printf "%d\n", $1 * 1000}' /proc/uptime; }

# "1234" -> "1.2 s"
seconds() { awk -v ms="$1" 'BEGIN { printf "%.1f s", ms / 1000 }'; }
