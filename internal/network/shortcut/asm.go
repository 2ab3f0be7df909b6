package shortcut

import (
	"encoding/binary"
	"fmt"
)

// The few instructions that the program needs (Documentation/bpf/standardization/instruction-set.rst of the kernel).

type register byte

// R0 has what a call returns, R1 to R5 are its arguments and lost with it, RF is the end of the stack.
const (
	r0 register = iota
	r1
	r2
	r3
	r4
	r5
	r6
	r7
	r8
	r9
	rf
)

// size is how much of memory is read or written, as instructions say it.
type size byte

const (
	word   size = 0x00
	half   size = 0x08
	single size = 0x10
	double size = 0x18
)

// Helpers of the kernel's (linux/bpf.h).
const (
	callFind, callPut, callDrop = 1, 2, 3
	callStoreBytes              = 9
	callTail                    = 12
	callRedirectPeer            = 155
	callTime                    = 160 // of the coarse clock, which is cheap
)

// Conditions of jumps.
const (
	always, equal, greater, notEqual, less = 0x00, 0x10, 0x20, 0x50, 0xa0
)

// Arithmetic.
const (
	opAdd, opSub, opAnd, opMove = 0x00, 0x10, 0x50, 0xb0
)

// pseudoMap marks a constant as a map's descriptor.
const pseudoMap = 1

// instructionSize is the same for all.
const instructionSize = 8

// instruction is one; to is the name of where it jumps.
type instruction struct {
	code     byte
	dst, src register
	offset   int16
	constant int32
	to       string
}

// assembler collects instructions.
type assembler struct {
	list   []instruction
	labels map[string]int
}

func (a *assembler) add(i instruction) { a.list = append(a.list, i) }

// label names the next instruction.
func (a *assembler) label(name string) { a.labels[name] = len(a.list) }

// load reads from memory.
func (a *assembler) load(dst, src register, offset int, s size) {
	a.add(instruction{code: 0x61 | byte(s), dst: dst, src: src, offset: int16(offset)})
}

// store writes to memory.
func (a *assembler) store(dst register, offset int, src register, s size) {
	a.add(instruction{code: 0x63 | byte(s), dst: dst, src: src, offset: int16(offset)})
}

func (a *assembler) set(dst register, value int32) {
	a.add(instruction{code: 0x07 | opMove, dst: dst, constant: value})
}

func (a *assembler) move(dst, src register) {
	a.add(instruction{code: 0x0f | opMove, dst: dst, src: src})
}

func (a *assembler) op(op byte, dst register, value int32) {
	a.add(instruction{code: 0x07 | op, dst: dst, constant: value})
}

func (a *assembler) sub(dst, src register) {
	a.add(instruction{code: 0x0f | opSub, dst: dst, src: src})
}

// increment adds one, modulo 2^32.
func (a *assembler) increment(dst register) {
	a.add(instruction{code: 0x04 | opAdd, dst: dst, constant: 1})
}

// fromWire makes a number of 32 bits of one in the network's order.
func (a *assembler) fromWire(dst register) {
	a.add(instruction{code: 0xdc, dst: dst, constant: 32})
}

func (a *assembler) jump(to string) { a.add(instruction{code: 0x05 | always, to: to}) }

// when jumps if a register compares so with a value, whenReg with another register.
func (a *assembler) when(condition byte, dst register, value int32, to string) {
	a.add(instruction{code: 0x05 | condition, dst: dst, constant: value, to: to})
}

func (a *assembler) whenReg(condition byte, dst, src register, to string) {
	a.add(instruction{code: 0x0d | condition, dst: dst, src: src, to: to})
}

func (a *assembler) call(helper int32) { a.add(instruction{code: 0x85, constant: helper}) }

func (a *assembler) exit() { a.add(instruction{code: 0x95}) }

// wide sets a register to 64 bits, or to a map.
func (a *assembler) wide(dst, src register, value uint64) {
	a.add(instruction{code: 0x18, dst: dst, src: src, constant: int32(uint32(value))})
	a.add(instruction{constant: int32(uint32(value >> 32))})
}

// bytes is the program as the kernel takes it.
func (a *assembler) bytes() ([]byte, error) {
	var b []byte
	for i, in := range a.list {
		if in.to != "" {
			at, ok := a.labels[in.to]
			if !ok {
				return nil, fmt.Errorf("shortcut: no place %q in the program", in.to)
			}
			in.offset = int16(at - i - 1)
		}
		registers := byte(in.dst) | byte(in.src)<<4
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // bit fields begin at the other end there
			registers = byte(in.dst)<<4 | byte(in.src)
		}
		b = append(b, in.code, registers)
		b = binary.NativeEndian.AppendUint16(b, uint16(in.offset))
		b = binary.NativeEndian.AppendUint32(b, uint32(in.constant))
	}
	return b, nil
}
