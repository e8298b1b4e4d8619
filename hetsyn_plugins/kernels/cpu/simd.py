"""One SIMD vector as a numba type, and the few operations the CPU kernels need on it.

numba does not vectorise loops over a recursion well; here every value of a kernel is an LLVM vector, 64 bytes where the
processor has AVX-512, 32 with AVX, 16 elsewhere (LLVM splits or emulates what the hardware lacks). The width follows
the element type of the array that a vector is loaded from. The only contraction is the fused multiply-add that is
asked for by name, so results do not depend on what the compiler likes.
"""

from __future__ import annotations

import math
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic, models, register_model


def _vector_bytes() -> int:
    """The widest registers of the processor, or of what NUMBA_CPU_FEATURES says it has."""
    requested: str | None = vars(config)["CPU_FEATURES"]
    features = llvmlite.binding.get_host_cpu_features().flatten() if requested is None else requested
    present = features.split(",")
    if "+avx512f" in present:
        return 64
    return 32 if "+avx" in present else 16


VECTOR_BYTES = _vector_bytes()


class Vector(types.Type):
    """A vector of float32 or float64 in one register."""

    def __init__(self, element: Any) -> None:
        self.element, self.lanes = element, VECTOR_BYTES * 8 // element.bitwidth
        super().__init__(name=f"Vector({element}, {self.lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """How numba holds it: as LLVM's own vector type."""

    def __init__(self, manager: Any, kind: Vector) -> None:
        element = ir.FloatType() if kind.element == types.float32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(element, kind.lanes))


def lanes_of(dtype: Any) -> int:
    """How many numbers of this NumPy dtype one vector holds."""
    return VECTOR_BYTES // dtype.itemsize


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    vector = context.get_value_type(Vector(array_type.dtype))
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """The vector that starts at element `index` of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(_pointer(context, builder, signature.args[0], *args))
        loaded.align = array.dtype.bitwidth // 8
        return loaded

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector to the elements of a flat array from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = builder.store(args[2], _pointer(context, builder, signature.args[0], *args[:2]))
        stored.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def get(typing: Any, array: Any, index: Any) -> Any:
    """The number at element `index` of a flat array; unlike array[index], without a test for negative indices."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def put(typing: Any, array: Any, index: Any, number: Any) -> Any:
    """Write a number to element `index` of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        builder.store(args[2], builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@intrinsic
def splat(typing: Any, number: Any) -> Any:
    """The vector whose every lane is this number."""
    kind = Vector(number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(kind)
        undefined = ir.Constant(vector, ir.Undefined)
        single = builder.insert_element(undefined, args[0], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.lanes), [0] * kind.lanes)
        return builder.shuffle_vector(single, undefined, zeros)

    return kind(number), generate


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(a)
        name = f"llvm.fma.v{a.lanes}f{a.element.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        return builder.call(function, args)

    return a(a, a, a), generate


def _binary(operation: str) -> Any:
    def declare(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, operation)(*args)

        return a(a, a), generate

    return declare


add = intrinsic(_binary("fadd"))
sub = intrinsic(_binary("fsub"))
mul = intrinsic(_binary("fmul"))
div = intrinsic(_binary("fdiv"))


def _unary(operation: str) -> Any:
    def declare(typing: Any, a: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = context.get_value_type(a)
            name = f"llvm.{operation}.v{a.lanes}f{a.element.bitwidth}"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector]), name)
            return builder.call(function, args)

        return a(a), generate

    return declare


magnitude = intrinsic(_unary("fabs"))
trunc = intrinsic(_unary("trunc"))


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of the two, in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, a), generate


@intrinsic
def exponential(typing: Any, a: Any) -> Any:
    """exp(a) for a <= 0, within 2 ulp; below about -87 (float32) or -708 (float64) the smallest normal numbers.

    exp(a) = 2^n exp(f), n = round(a / log 2), |f| <= log(2) / 2, and exp(f) by its Taylor series, whose next term is
    below eps / 8: f^8 / 8! in float32, f^14 / 14! in float64.
    """
    wide = a.element == types.float64
    bits, mantissa, terms, lowest = (64, 52, 13, -708.0) if wide else (32, 23, 7, -87.0)
    high = 0.693145751953125  # 15 bits of log 2, so that n * high is exact
    low = 1.42860682030941723212e-06

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(a)
        integers = ir.VectorType(ir.IntType(bits), a.lanes)
        name = f"llvm.fma.v{a.lanes}f{bits}"
        fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)

        def constant(x: float) -> Any:
            return ir.Constant(vector, [x] * a.lanes)

        x = builder.select(builder.fcmp_ordered("<", args[0], constant(lowest)), constant(lowest), args[0])
        magic = constant(1.5 * 2.0**mantissa)  # adding it rounds to an integer, which the low bits then hold
        shifted = builder.call(fused, [x, constant(1.4426950408889634), magic])
        n = builder.fsub(shifted, magic)
        f = builder.call(fused, [n, constant(-high), x])
        f = builder.call(fused, [n, constant(-low), f])
        series = constant(1 / math.factorial(terms))
        for k in range(terms - 1, -1, -1):
            series = builder.call(fused, [series, f, constant(1 / math.factorial(k))])
        exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [mantissa] * a.lanes))
        return builder.bitcast(builder.add(builder.bitcast(series, integers), exponent), vector)

    return a(a), generate


@intrinsic
def above(typing: Any, a: Any, b: Any) -> Any:
    """1 where a > b, else 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(a)
        one, zero = (ir.Constant(vector, [float(x)] * a.lanes) for x in (1, 0))
        return builder.select(builder.fcmp_ordered(">", *args), one, zero)

    return a(a, a), generate


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of all lanes, first to last."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = [builder.extract_element(args[0], ir.Constant(ir.IntType(32), i)) for i in range(a.lanes)]
        result = lanes[0]
        for lane in lanes[1:]:
            result = builder.fadd(result, lane)
        return result

    return a.element(a), generate


@intrinsic
def lanes(typing: Any, array: Any) -> Any:
    """How many elements of this array one vector holds: a constant to the compiler."""
    count = Vector(array.dtype).lanes

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, count)

    return types.intp(array), generate


@intrinsic
def pick(typing: Any, bits: Any, a: Any, b: Any) -> Any:
    """a in the lanes whose bit of an integer is set (the lowest bit is the first lane's), b in the others."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = ir.IntType(a.lanes)
        number = args[0] if args[0].type.width == a.lanes else _as_wide(builder, args[0], count)
        mask = builder.bitcast(number, ir.VectorType(ir.IntType(1), a.lanes))
        return builder.select(mask, args[1], args[2])

    return a(bits, a, a), generate


def _as_wide(builder: Any, number: Any, kind: Any) -> Any:
    return builder.trunc(number, kind) if number.type.width > kind.width else builder.zext(number, kind)


@intrinsic
def nonzero(typing: Any, a: Any) -> Any:
    """An integer whose bits say which lanes are not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(context.get_value_type(a), [0.0] * a.lanes)
        mask = builder.bitcast(builder.fcmp_unordered("!=", args[0], zero), ir.IntType(a.lanes))
        return builder.zext(mask, ir.IntType(64))

    return types.int64(a), generate


@intrinsic
def put_whole(typing: Any, array: Any, index: Any, stride: Any, vector: Any) -> Any:
    """Write the lanes of a vector, which are whole numbers, to elements of a flat array of integers, `stride` apart."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        kind = context.get_value_type(array.dtype)
        wide = ir.VectorType(ir.IntType(32), vector.lanes)
        numbers = builder.trunc(builder.fptosi(args[3], wide), ir.VectorType(kind, vector.lanes))
        pointer = builder.gep(data, [args[1]])
        for lane in range(vector.lanes):
            builder.store(builder.extract_element(numbers, ir.Constant(ir.IntType(32), lane)), pointer)
            pointer = builder.gep(pointer, [args[2]])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


@intrinsic
def first_bit(typing: Any, bits: Any) -> Any:
    """Which is the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def count_bits(typing: Any, bits: Any) -> Any:
    """How many bits are set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), generate


@intrinsic
def turn(typing: Any, source: Any, p: Any, tile: Any, line: Any, out: Any, q: Any, out_tile: Any, out_line: Any) -> Any:
    """Write a square of numbers, as many vectors as each has lanes, with rows and columns exchanged.

    Vector k is at p + k // 4 * tile + k % 4 * line of the source, and at q + k // 4 * out_tile + k % 4 * out_line.
    """
    size = Vector(source.dtype).lanes

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.IntType(64)

        def place(k: int, first: Any, tile: Any, line: Any) -> Any:
            tiles, lines = (builder.mul(x, ir.Constant(whole, n)) for x, n in ((tile, k // 4), (line, k % 4)))
            return builder.add(first, builder.add(tiles, lines))

        def pointer(at: int, k: int) -> Any:
            return _pointer(context, builder, signature.args[at], args[at], place(k, *args[at + 1 : at + 4]))

        rows = []
        for k in range(size):
            row = builder.load(pointer(0, k))
            row.align = source.dtype.bitwidth // 8
            rows.append(row)
        half = 1
        while half < size:  # squares of 2 * half change their corners
            for k in (k for k in range(size) if not k & half):
                a, b = rows[k], rows[k + half]
                low = [j if not j & half else size + j - half for j in range(size)]
                high = [j + half if not j & half else size + j for j in range(size)]
                rows[k], rows[k + half] = (builder.shuffle_vector(a, b, _numbers(order)) for order in (low, high))
            half *= 2
        for k, row in enumerate(rows):
            builder.store(row, pointer(4, k)).align = source.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, types.intp, out, types.intp, types.intp, types.intp), generate


def _numbers(numbers: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)
