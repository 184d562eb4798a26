package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/pelton-run/pelton/contracts"
	"github.com/pelton-run/pelton/contracts/client"
	"github.com/pelton-run/pelton/contracts/contractstest"
)

// fleet stands for `pelton up`: the examples run against it.
func fleet() (url string, stop func()) {
	t := contractstest.Standalone()
	b := contractstest.StartBroker(t, nil)
	contractstest.FakeFleet(t, b.Conn())
	return b.URL(), t.End
}

// Submit a chat and print the answer as it is written.
func Example() {
	url, stop := fleet()
	defer stop()

	nc, err := client.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	c := client.New(nc, "default")

	stream, err := c.Run(context.Background(), &contracts.Job{
		Model:    "smollm2",
		Kind:     contracts.KindChat,
		Messages: []contracts.Message{{Role: "user", Content: "why is the sky blue?"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for chunk, err := range stream.Chunks() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(chunk.Text)
		if chunk.Final() {
			fmt.Printf("\n%s after %d tokens\n", chunk.Finish, chunk.Usage.CompletionTokens)
		}
	}
	// Output:
	// You said: why is the sky blue?
	// stop after 7 tokens
}

// Submit without waiting, and read the answer later, from another process if need be.
func ExampleClient_Follow() {
	url, stop := fleet()
	defer stop()
	ctx := context.Background()
	nc, err := client.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()

	job := &contracts.Job{ID: "report-7", Model: "smollm2", Kind: contracts.KindText, Prompt: "once upon a time", Class: contracts.P3}
	if _, err := client.New(nc, "default").Submit(ctx, job); err != nil {
		log.Fatal(err)
	}

	stream, err := client.New(nc, "default").Follow(ctx, "report-7", -1)
	if err != nil {
		log.Fatal(err)
	}
	text, usage, err := stream.Text(ctx)
	fmt.Println(text, usage.CompletionTokens, err)
	// Output: You said: once upon a time 6 <nil>
}

// Refusals carry a code, the parameter at fault and what to do.
func ExampleClient_Submit() {
	url, stop := fleet()
	defer stop()
	nc, err := client.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()

	hot := 9.0
	_, err = client.New(nc, "default").Submit(context.Background(), &contracts.Job{
		Model: "smollm2", Kind: contracts.KindText, Prompt: "x", Params: contracts.Params{Temperature: &hot},
	})
	e := contracts.AsError(err)
	fmt.Println(e.Code, e.Param)
	fmt.Println(e.Message)
	// Output:
	// invalid_argument params.temperature
	// temperature is 9, it must be from 0 to 2
}

// Cancel ends a job that waits or runs.
func ExampleClient_Cancel() {
	url, stop := fleet()
	defer stop()
	ctx := context.Background()
	nc, err := client.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()

	_, err = client.New(nc, "default").Cancel(ctx, "no-such-job")
	fmt.Println(contracts.CodeOf(err))
	// Output: not_found
}
