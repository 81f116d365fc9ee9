// opa answers the questions of `cargo xtask bench policy` by OPA's Go library: prepared once, the edges as base documents
// that are looked up by key, each input in OPA's own form before the clock runs.
//
//	opa FOLDER ROUNDS
//
// FOLDER holds edges.json and questions.json; the answers and times are one JSON document on standard output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// Purposes and fields are objects whose keys are looked up: an array would have to be searched.
const policy = `package meridian

default allow := false

allow if {
	edge := data.edges[input.tenant][input.class][input.to]
	input.now >= edge.from
	input.now < edge.until
	edge.purposes[input.purpose]
	every field in input.fields { edge.fields[field] }
}
`

type answer struct {
	// Allowed has one 1 or 0 for each question.
	Allowed string `json:"allowed"`
	// Rounds are the nanoseconds of each round over all questions.
	Rounds []int64 `json:"rounds"`
	// P50 and P99 are nanoseconds of one decision.
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "opa:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: opa FOLDER ROUNDS")
	}
	rounds, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	var edges map[string]any
	if err := read("edges.json", &edges); err != nil {
		return err
	}
	var questions []map[string]any
	if err := read("questions.json", &questions); err != nil {
		return err
	}
	inputs := make([]ast.Value, len(questions))
	for i, question := range questions {
		if inputs[i], err = ast.InterfaceToValue(question); err != nil {
			return err
		}
	}

	ctx := context.Background()
	// Read as AST values from the start: nothing is converted while the clock runs.
	store := inmem.NewFromObjectWithOpts(map[string]any{"edges": edges}, inmem.OptReturnASTValuesOnRead(true))
	prepared, err := rego.New(
		rego.Query("data.meridian.allow"),
		rego.Module("meridian.rego", policy),
		rego.Store(store),
	).PrepareForEval(ctx)
	if err != nil {
		return err
	}

	allowed := make([]byte, len(inputs))
	times := make([]int64, 0, len(inputs))
	var answered answer
	for range rounds {
		began := time.Now()
		for i, input := range inputs {
			result, err := prepared.Eval(ctx, rego.EvalParsedInput(input))
			if err != nil {
				return err
			}
			allowed[i] = '0'
			if result.Allowed() {
				allowed[i] = '1'
			}
		}
		answered.Rounds = append(answered.Rounds, time.Since(began).Nanoseconds())
	}
	for _, input := range inputs {
		asked := time.Now()
		if _, err := prepared.Eval(ctx, rego.EvalParsedInput(input)); err != nil {
			return err
		}
		times = append(times, time.Since(asked).Nanoseconds())
	}
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	answered.Allowed = string(allowed)
	answered.P50 = times[len(times)/2]
	answered.P99 = times[len(times)*99/100]
	return json.NewEncoder(os.Stdout).Encode(answered)
}

func read(name string, into any) error {
	file, err := os.Open(filepath.Join(os.Args[1], name))
	if err != nil {
		return err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.UseNumber()
	return decoder.Decode(into)
}
