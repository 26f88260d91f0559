# Everything needs Go alone, but kafka: a JDK (17 or newer) and Maven.

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: test test-all sim replay mutants lint bench quickstart broker consumer producer kafka kafka-down rename ci

test: ## the tests of everyday
	go test ./...

test-all: ## and those in virtual time, with the race detector
	go test -race -shuffle=on -tags synctests ./...

SEEDS ?= 1000
FIRST ?= 1

sim: ## SEEDS=10000 FIRST=1 FLAGS=-protocol=eager: whole clusters in virtual time under faults
	test/sim/sim.sh $(SEEDS) $(FIRST) $(FLAGS)

SEED ?= 1

replay: bin/sim.wasm ## SEED=n: one seed twice, bit for bit (in WebAssembly, which has one thread and our clock and randomness)
	cd test/replay && go run . -twice ../../bin/sim.wasm -test.run '^TestSeeds$$' -seed $(SEED) -seeds 1 -hash -patience 10000h $(FLAGS)

bin/sim.wasm: FORCE
	GOOS=wasip1 GOARCH=wasm go test -c -tags synctests,sim -o bin/sim.wasm ./test/sim

FORCE:

mutants: ## FLAGS='-only commit -seeds 500': mistakes planted in kstage, and who sees them
	go run ./test/mutants $(FLAGS)

lint: ## with a pinned linter; the first run builds it
	go run $(GOLANGCI_LINT) run --build-tags synctests,sim ./...

bench: ## of the parts that every record goes through
	go test -run '^$$' -bench . -benchmem ./internal/...

quickstart: ## records handled, retried and dead-lettered, on an embedded broker
	go run ./examples/quickstart

broker consumer producer: ## the example programs: in three terminals
	go run ./examples/$@

kafka: ## a real Apache Kafka on loopback; prints its address
	@test/kafka/kafka.sh up 1

kafka-down: ## end it, and delete its data
	@test/kafka/kafka.sh down --wipe

rename: ## MODULE=example.com/you/kstage: publish it under another path
	@test -n "$(MODULE)" || { echo "usage: make rename MODULE=example.com/you/kstage" >&2; exit 2; }
	git ls-files '*.go' '*go.mod' '*.md' '*.yml' '*.sh' Makefile | xargs sed -i 's#github.com/kstage/kstage#$(MODULE)#g'
	gofmt -w . # other names, another order
	go mod tidy

ci: ## the gate
	bash .ci/run
