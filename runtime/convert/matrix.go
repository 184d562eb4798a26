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
	case blocked(b.variant):
		return blocks(b, name, product{in: in, out: out, columns: columns}, parts...)
	case b.variant == FP16W4 && formOf(b, parts).Bits == 4:
		return matrix4(b, name, in, out, parts, rows, columns)
	}
	return matrix8(b, name, in, out, parts, rows, columns)
}

// matrix8 adds out = in·Wᵀ with the parts in 8 bits.
func matrix8(b *builder, name, in, out string, parts []part, rows, columns int) error {
	b.matMulNBits(name, in, out, columns, rows, 8)
	at, scales, err := b.eight(parts, rows, columns)
	if err != nil {
		return err
	}
	b.w.alias(name, typeUint8, at, rows, columns/quant.Block, quant.Block)
	b.w.floats(name+".scales", scales, rows, columns/quant.Block)
	return nil
}

// matMulNBits adds the node; weight and scales have its name.
func (b *builder) matMulNBits(name, in, out string, k, n, bits int) {
	b.microsoft("MatMulNBits", name, []string{in, name, name + ".scales"}, []string{out},
		attribute{"K", k}, attribute{"N", n}, attribute{"bits", bits}, attribute{"block_size", quant.Block},
		attribute{"accuracy_level", accuracyInt8})
}

// matrix4 adds out = in·Wᵀ with the parts' own 4 bits. A block's weights are d·q + m, of which the operator knows
// d·(q - 8) only; the rest, m + 8d, is the same for the whole block, so that it takes a product with the mean of the
// block's activations. (Not with their sum, which can leave half precision.)
func matrix4(b *builder, name, in, out string, parts []part, rows, columns int) error {
	per := columns / quant.Block
	b.w.begin(name, typeUint8, rows, per, quant.Block/2)
	scales, rests := make([]float32, 0, rows*per), make([]float32, rows*per) // the latter by block
	symmetric := true
	for _, p := range parts {
		err := b.chunks(p, columns, func(t gguf.Tensor, raw []byte, n int) error {
			q, s, minima := make([]byte, n*columns), make([]float32, n*per), make([]float32, n*per)
			if err := quant.Take4(t.Format, q, s, minima, raw); err != nil {
				return err
			}
			for i, m := range minima {
				rest, at := m+8*s[i], len(scales)+i
				rests[at%per*rows+at/per] = rest * quant.Block
				symmetric = symmetric && rest == 0
			}
			scales = append(scales, s...)
			for i := range len(q) / 2 {
				q[i] = q[2*i] | q[2*i+1]<<4
			}
			b.w.write(q[:len(q)/2])
			return nil
		})
		if err != nil {
			return err
		}
	}
	b.w.floats(name+".scales", scales, rows, per)
	if symmetric {
		b.matMulNBits(name, in, out, columns, rows, 4)
		return nil
	}
	b.matMulNBits(name, in, name+".symmetric", columns, rows, 4)
	cut := b.constant("blocks."+itoa(per), 0, int64(per), quant.Block)
	b.onnx("Reshape", name+".cut", []string{in, cut}, []string{name + ".blocks"})
	b.onnx("ReduceMean", name+".mean", []string{name + ".blocks"}, []string{name + ".means"}, attribute{"axes", []int64{-1}}, attribute{"keepdims", 0})
	b.w.floats(name+".rests", rests, per, rows)
	b.onnx("Gemm", name+".add", []string{name + ".means", name + ".rests", name + ".symmetric"}, []string{out})
	return nil
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
