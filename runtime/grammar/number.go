package grammar

import (
	"math/big"
	"strings"
)

// numbers builds numbers.
type numbers struct{ *builder }

// number is any number of JSON whose digits a double can hold, more or less.
func (b numbers) number(k pc) pc {
	exponent := b.repeat(b.digit, 1, mostExponent, k)
	exponent = b.split(exponent, b.read(edge{'+', '+', exponent}, edge{'-', '-', exponent}))
	return b.signed(b.fraction(mostDigits, b.split(k, b.read(edge{'E', 'E', exponent}, edge{'e', 'e', exponent}))))
}

// signed is a whole number.
func (b numbers) signed(k pc) pc {
	whole := b.split(b.byte('0', k), b.read(edge{'1', '9', b.repeat(b.digit, 0, mostDigits-1, k)}))
	return b.split(whole, b.byte('-', whole))
}

func (b numbers) fraction(digits int, k pc) pc {
	return b.split(k, b.byte('.', b.repeat(b.digit, 1, digits, k)))
}

// nothing is a fraction of zeros, something one that is not of zeros alone.
func (b numbers) nothing(k pc) pc {
	return b.split(k, b.byte('.', b.repeat(b.span('0', '0'), 1, mostDigits, k)))
}

func (b numbers) something(digits int, k pc) pc {
	var zeros pc // behind as many zeros
	for i := range digits {
		edges := []edge{{'1', '9', b.repeat(b.digit, 0, i, k)}}
		if i > 0 {
			edges = append(edges, edge{'0', '0', zeros})
		}
		zeros = b.read(edges...)
	}
	return b.byte('.', zeros)
}

// bound is an end of a range of numbers, a whole number.
type bound struct {
	at   *big.Int // nil: none
	open bool     // it does not belong to the range
}

var one = big.NewInt(1)

// between is the numbers between two bounds; only whole ones, or with fractions but without exponents.
func (b numbers) between(lo, hi bound, whole bool, k pc) pc {
	negative := func(x bound) bound {
		if x.at == nil {
			return x
		}
		return bound{new(big.Int).Neg(x.at), x.open}
	}
	zero := bound{at: new(big.Int)}
	var alts []pc
	if hi.at == nil || hi.at.Sign() >= 0 {
		from := zero
		if lo.at != nil && lo.at.Sign() >= 0 {
			from = lo
		}
		alts = append(alts, b.magnitudes(from, hi, whole, k))
	}
	if lo.at == nil || lo.at.Sign() < 0 {
		from, to := zero, negative(lo)
		if hi.at != nil && hi.at.Sign() <= 0 {
			from = negative(hi)
		}
		from.open = from.open || whole && from.at.Sign() == 0 // no -0
		alts = append(alts, b.byte('-', b.magnitudes(from, to, whole, k)))
	}
	return b.split(alts...)
}

// magnitudes is between for bounds that are not negative.
func (b numbers) magnitudes(lo, hi bound, whole bool, k pc) pc {
	first, last := lo.at, hi.at
	if last == nil {
		last = new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(mostDigits, len(first.String())))), nil)
		last.Sub(last, one)
	}
	if whole {
		if lo.open {
			first = new(big.Int).Add(first, one)
		}
		if hi.open {
			last = new(big.Int).Sub(last, one)
		}
		return b.wholes(first, last, k)
	}
	if hi.at != nil && first.Cmp(last) == 0 { // one number at most
		if lo.open || hi.open {
			return b.read()
		}
		return b.text(first.String(), b.nothing(k))
	}
	digits := exactDigits - len(first.String())
	if hi.at != nil {
		digits = exactDigits - len(last.String())
	}
	alts := []pc{}
	if lo.open {
		alts = append(alts, b.text(first.String(), b.something(digits, k)))
		first = new(big.Int).Add(first, one)
	}
	if hi.at != nil {
		if !hi.open {
			alts = append(alts, b.text(last.String(), b.nothing(k)))
		}
		last = new(big.Int).Sub(last, one)
	}
	return b.split(append(alts, b.wholes(first, last, b.fraction(digits, k)))...)
}

// wholes is the whole numbers from first to last, not negative, as they are written.
func (b numbers) wholes(first, last *big.Int, k pc) pc {
	if first.Cmp(last) > 0 {
		return b.read()
	}
	lo, hi := first.String(), last.String()
	var alts []pc
	for n := len(lo); n <= len(hi); n++ {
		from, to := "1"+strings.Repeat("0", n-1), strings.Repeat("9", n)
		if n == len(lo) {
			from = lo
		}
		if n == len(hi) {
			to = hi
		}
		alts = append(alts, b.digits(from, to, k))
	}
	return b.split(alts...)
}

// digits is the texts of digits from one to another of the same length.
func (b numbers) digits(from, to string, k pc) pc {
	if from == "" {
		return k
	}
	rest := len(from) - 1
	if from[0] == to[0] {
		return b.byte(from[0], b.digits(from[1:], to[1:], k))
	}
	lo, hi := from[0], to[0]
	var edges []edge
	if strings.Trim(from[1:], "0") != "" {
		edges = append(edges, edge{lo, lo, b.digits(from[1:], strings.Repeat("9", rest), k)})
		lo++
	}
	if strings.Trim(to[1:], "9") != "" {
		edges = append(edges, edge{hi, hi, b.digits(strings.Repeat("0", rest), to[1:], k)})
		hi--
	}
	if lo <= hi {
		edges = append(edges, edge{lo, hi, b.repeat(b.digit, rest, rest, k)})
	}
	return b.read(edges...)
}
