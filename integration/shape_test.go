package integration

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Limits that a change must not cross; ARCHITECTURE.md says why they are there.
const (
	maxFunctionLines = 100
	maxFileLines     = 600
	maxPackageLines  = 2500
	maxFields        = 20
	maxMethods       = 25
	maxInterface     = 6
)

// exempt lists what may cross a limit, each with its reason.
var exempt = map[string]string{
	"contracts.Params":      "wire type",
	"cli.app":               "one method for each command of the binary",
	"dispatcher.Dispatcher": "the shell around admission, relay and fleet: one method for each request and look",
	"gateway.gateway":       "one handler for each route",
	"ops/cli":               "one file for each subcommand of the binary, which share its settings",
	"onnx.Engine":           "the seam's methods, and warm-up and checks of an engine that is one session",
}

var bannedNames = map[string]bool{
	"common": true, "util": true, "utils": true, "helpers": true, "misc": true, "types": true, "models": true, "base": true, "shared": true,
}

type shape struct {
	t       *testing.T
	fset    *token.FileSet
	lines   map[string]int // package folder -> lines without tests
	comment map[string]bool
	methods map[string]int // "pkg.Type" -> methods
}

func TestShape(t *testing.T) {
	t.Parallel()
	s := &shape{t: t, fset: token.NewFileSet(), lines: map[string]int{}, comment: map[string]bool{}, methods: map[string]int{}}
	walk(t, func(path string) {
		if strings.HasSuffix(path, ".go") {
			s.file(path)
		}
	})
	for dir, n := range s.lines {
		if n > maxPackageLines && exempt[dir] == "" {
			t.Errorf("%s has %d lines, at most %d", dir, n, maxPackageLines)
		}
		if !s.comment[dir] {
			t.Errorf("%s has no package comment", dir)
		}
		if bannedNames[filepath.Base(dir)] {
			t.Errorf("%s: the name says nothing, choose another", dir)
		}
	}
	for typ, n := range s.methods {
		if exempt[typ] == "" && n > maxMethods {
			t.Errorf("%s has %d methods, at most %d", typ, n, maxMethods)
		}
	}
}

func (s *shape) file(path string) {
	src, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := parser.ParseFile(s.fset, path, src, parser.ParseComments)
	if err != nil {
		s.t.Fatal(err)
	}
	rel, _ := filepath.Rel("..", path)
	test := strings.HasSuffix(path, "_test.go")
	lines := bytes.Count(src, []byte("\n"))
	if !test {
		dir := filepath.Dir(rel)
		s.lines[dir] += lines
		s.comment[dir] = s.comment[dir] || f.Doc != nil
		if lines > maxFileLines {
			s.t.Errorf("%s has %d lines, at most %d", rel, lines, maxFileLines)
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.function(rel, f.Name.Name, d, test)
		case *ast.GenDecl:
			if !test {
				s.declaration(rel, f.Name.Name, d)
			}
		}
	}
}

func (s *shape) function(rel, pkg string, d *ast.FuncDecl, test bool) {
	if test { // tables of cases may be long
		return
	}
	if n := s.fset.Position(d.End()).Line - s.fset.Position(d.Pos()).Line; n > maxFunctionLines {
		s.t.Errorf("%s: %s has %d lines, at most %d", rel, d.Name.Name, n, maxFunctionLines)
	}
	receiver := ""
	if d.Recv != nil {
		receiver = typeName(d.Recv.List[0].Type)
		s.methods[pkg+"."+receiver]++
	}
	if d.Name.IsExported() && (receiver == "" || ast.IsExported(receiver)) && d.Doc == nil {
		s.t.Errorf("%s: exported %s has no comment", rel, d.Name.Name)
	}
}

func (s *shape) declaration(rel, pkg string, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && spec.Doc == nil && d.Doc == nil {
				s.t.Errorf("%s: exported type %s has no comment", rel, spec.Name.Name)
			}
			s.size(rel, pkg+"."+spec.Name.Name, spec.Type)
		case *ast.ValueSpec:
			if spec.Names[0].IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
				s.t.Errorf("%s: exported %s has no comment", rel, spec.Names[0].Name)
			}
		}
	}
}

func (s *shape) size(rel, name string, typ ast.Expr) {
	if _, ok := exempt[name]; ok {
		return
	}
	switch typ := typ.(type) {
	case *ast.StructType:
		if n := typ.Fields.NumFields(); n > maxFields {
			s.t.Errorf("%s: %s has %d fields, at most %d", rel, name, n, maxFields)
		}
	case *ast.InterfaceType:
		if n := typ.Methods.NumFields(); n > maxInterface {
			s.t.Errorf("%s: interface %s has %d methods, at most %d", rel, name, n, maxInterface)
		}
	}
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return fmt.Sprintf("%T", e)
}

func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
			return filepath.SkipDir
		}
		if !d.IsDir() {
			visit(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	link       = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	makeTarget = regexp.MustCompile("`make ([a-z][a-z-]*)`")
	makeRule   = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
)

// TestDocuments checks that every relative link and every make target named in Markdown exists.
func TestDocuments(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range makeRule.FindAllSubmatch(makefile, -1) {
		targets[string(m[1])] = true
	}
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			target := string(m[1])
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", path, target)
			}
		}
		for _, m := range makeTarget.FindAllSubmatch(text, -1) {
			if !targets[string(m[1])] {
				t.Errorf("%s names `make %s`, which the Makefile does not have", path, m[1])
			}
		}
	})
}
