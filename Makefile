# Everything runs on a machine with Rust, Go, Python 3 and make. Builds go to a cache outside the checkout (hack/env.sh).
SHELL := /bin/bash
CARGO := source hack/env.sh && cargo

.PHONY: help demo test crds render fmt lint doc

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Watch the operator do its job on a real API server, until Ctrl-C (ONCE=1: check and end)
	@ONCE='$(ONCE)' hack/demo.sh

test: ## Install what the tests need and run all of them (ARGS='--test schema' for some)
	@hack/test.sh $(ARGS)

crds: ## Print crds/ from the types again, and their copy in the chart
	@set -o pipefail; $(CARGO) run --quiet --locked -- crd | awk '/^---$$/ { n++ } \
		{ text[n] = text[n] $$0 "\n" } \
		/^  name: [a-z]+[.]virtualaccounts[.]dev$$/ { split($$2, part, "."); file[n] = "crds/" part[1] ".yaml" } \
		END { for (n in file) printf "%s", text[n] > file[n] }'
	@cp $(filter-out crds/kustomization.yaml,$(wildcard crds/*.yaml)) charts/virtual-account-operator/files/crds/

render: ## Write config/default from the chart again
	@hack/render.sh

fmt: ## Format the source
	@$(CARGO) fmt

lint: ## Check formatting and lints, as CI does
	@$(CARGO) fmt --check
	@$(CARGO) clippy --locked --all-targets -- -D warnings

doc: ## Build the documentation of the source
	@source hack/env.sh && RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps

.PHONY: test-full sbom

test-full: ## Run what is long: release build, its size, start and memory, both Helms, kills (STEPS='sbom' for some)
	@hack/test-full.sh $(STEPS)

sbom: ## Write the bill of materials to sbom.cdx.json (CycloneDX)
	@hack/sbom.sh sbom.cdx.json
