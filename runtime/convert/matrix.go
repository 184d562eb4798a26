package convert

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/pelton-run/pelton/runtime/gguf"
	"github.com/pelton-run/pelton/runtime/quant"
)

// accuracyInt8 makes MatMulNBits compute with 8-bit activations: on CPUs the only way that is fast for
// 8-bit weights. Only the activations' rounding costs quality.
const accuracyInt8 = 4

// matrix adds out = in·Wᵀ for the stacked parts, in the form of the variant.
func (b *builder) matrix(name, in, out string, columns int, parts ...part) error {
	rows := 0
	for _, p := range parts {
		rows += p.rows
	}
	switch {
	case b.variant == Naive:
		return plainMatrix(b, name, in, out, columns, parts)
	case float(b.variant):
		b.onnx("MatMul", name, []string{in, name}, []string{out})
		return b.transposed(name, parts, rows, columns)
	case b.variant == W8A16:
		return integer(b, name, in, out, parts, rows, columns)
	case b.variant == Q4:
		return blocks(b, name, in, out, columns, false, parts...)
	}
	b.matMulNBits(name, in, out, columns, rows)
	at, scales, err := b.eight(parts, rows, columns)
	if err != nil {
		return err
	}
	b.w.alias(name, typeUint8, at, rows, columns/quant.Block, quant.Block)
	b.w.floats(name+".scales", scales, rows, columns/quant.Block)
	return nil
}

// matMulNBits adds the node; weight and scales have its name.
func (b *builder) matMulNBits(name, in, out string, k, n int) {
	b.microsoft("MatMulNBits", name, []string{in, name, name + ".scales"}, []string{out},
		attribute{"K", k}, attribute{"N", n}, attribute{"bits", 8}, attribute{"block_size", quant.Block},
		attribute{"accuracy_level", accuracyInt8})
}

// eight writes the parts' bytes in 8 bit and returns where they are and their scales, [rows, columns/32].
// The caller declares the initializers, because operators differ in the shape they want.
func (b *builder) eight(parts []part, rows, columns int) (region, []float32, error) {
	at := b.w.reserve(int64(rows) * int64(columns))
	scales := make([]float32, 0, rows*columns/quant.Block)
	for _, p := range parts {
		err := b.chunks(p, columns, func(t gguf.Tensor, raw []byte, rows int) error {
			n := rows * columns
			q, s := make([]byte, n), make([]float32, n/quant.Block)
			if err := pack8(q, s, t.Format, raw); err != nil {
				return err
			}
			b.w.write(q)
			scales = append(scales, s...)
			return nil
		})
		if err != nil {
			return at, nil, err
		}
	}
	return at, scales, nil
}

func pack8(q []byte, scales []float32, f quant.Format, raw []byte) error {
	if f == quant.Q80 {
		return quant.Take8(q, scales, raw)
	}
	v := make([]float32, len(q))
	if err := f.Dequantize(v, raw); err != nil {
		return err
	}
	return quant.Pack8(q, scales, v)
}

// rowMajor writes one part as numbers of type w.real, [rows, columns].
func (b *builder) rowMajor(name string, p part, columns int) error {
	b.w.begin(name, b.w.real, p.rows, columns)
	return b.chunks(p, columns, func(t gguf.Tensor, raw []byte, rows int) error {
		v := make([]float32, rows*columns)
		if err := t.Format.Dequantize(v, raw); err != nil {
			return err
		}
		b.w.writeFloats(v)
		return finite(v)
	})
}

// stripColumns is how many columns are unpacked at once: blocks of all formats have a power of two, at most 256.
const stripColumns = 128

// transposed writes the stacked parts as numbers of type w.real, [columns, rows]: MatMul then needs no transposed weight.
// The source's bytes are kept while strips of some columns, whole quantized blocks, are unpacked on all processors.
func (b *builder) transposed(name string, parts []part, rows, columns int) error {
	type piece struct {
		t    gguf.Tensor
		raw  []byte
		rows int
	}
	var pieces []piece
	width := 1
	for _, p := range parts {
		err := b.chunks(p, columns, func(t gguf.Tensor, raw []byte, rows int) error {
			pieces = append(pieces, piece{t, raw, rows})
			width = max(width, t.Format.BlockValues(), min(stripColumns, columns))
			return nil
		})
		if err != nil {
			return err
		}
	}
	b.w.begin(name, b.w.real, columns, rows)
	turn := func(c int, to []byte) ([]byte, error) {
		n, at := min(width, columns-c), 0
		strip, row := make([]float32, n*rows), make([]float32, n)
		for _, p := range pieces {
			values, size := p.t.Format.BlockValues(), p.t.Format.BlockBytes()
			for r := range p.rows {
				src := p.raw[r*p.t.RowBytes()+c/values*size:][:n/values*size]
				if err := p.t.Format.Dequantize(row, src); err != nil {
					return nil, fmt.Errorf("tensor %s: %w", p.t.Name, err)
				}
				for i, v := range row {
					strip[i*rows+at] = v
				}
				at++
			}
		}
		if err := finite(strip); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return b.w.real.encode(to, strip), nil
	}
	turned, errs := make([][]byte, runtime.GOMAXPROCS(0)), make([]error, runtime.GOMAXPROCS(0))
	for c := 0; c < columns; c += width * len(turned) {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		var wait sync.WaitGroup
		for i := range turned {
			if at := c + i*width; at < columns {
				wait.Go(func() { turned[i], errs[i] = turn(at, turned[i][:0]) })
			} else {
				turned[i] = turned[i][:0]
			}
		}
		wait.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, t := range turned {
			b.w.write(t)
		}
	}
	return nil
}

func finite(v []float32) error {
	if i := quant.Finite(v); i >= 0 {
		return fmt.Errorf("value %d is %g: the source is damaged", i, v[i])
	}
	return nil
}
