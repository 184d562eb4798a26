// Command pelton is the whole of Pelton in one binary; package ops/cli has its commands.
package main

import (
	"os"

	"github.com/pelton-run/pelton/ops/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
