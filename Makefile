# The commands of this repository. Each one is a script that says what it does.
# CARGO_TARGET_DIR and FAIRMAZON_TERRAFORM are respected; downloads are kept in ~/.cache/fairmazon.

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs notices dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is needed beside Rust (Debian packages, a real Terraform)
	@scripts/setup

demo: ## Start a whole platform on this machine and walk through it with Terraform
	@scripts/demo

test: ## Run every test, from pure functions to a real Terraform
	@scripts/test

lint: ## Check form, lints, dependency edges, notices and generated docs: what CI runs
	@scripts/lint/run

bench: ## Measure speed and memory, and print the table
	@scripts/bench/run

docs: ## Write docs/ from the provider's schema and the examples
	@scripts/docs

notices: ## Write THIRD-PARTY-NOTICES from the dependencies
	@scripts/lint/notices.py --write

dist: ## Build release archives as the registries expect them, into dist/
	@scripts/dist

clean: ## Remove what was built here (downloads in ~/.cache/fairmazon stay)
	@cargo clean --quiet
	@rm -rf dist .cache
