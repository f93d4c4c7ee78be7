"""Compiles the kernels for an H100 on any machine; prints what came out, as JSON. Run as a program.

A process of its own, as Triton decides once whether it compiles or interprets.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pbkv.replay import cuda_attention, kernels

H100 = GPUTarget("cuda", 90, 32)
LLAMA_8B = {"HEAD_DIM": 128, "PAGE_SIZE": 32}
POINTERS = {
    "query": "*bf16",
    "key": "*bf16",
    "value": "*bf16",
    "layer": "*bf16",
    "out": "*bf16",
    "slots": "*i64",
}
POINTERS |= {"parts": "*fp32", "parts_lse": "*fp32", "scale": "fp32", "first_token": "i32"}
TABLES = ("tile_slices", "tile_firsts", "q_starts", "kv_lens", "page_starts", "pages")
UNALIGNED = ("tile_slices", "tile_firsts", "first_token", "scale")


def attend(rows: int, splits: int) -> dict[str, Any]:
    constants = LLAMA_8B | {"GROUP": 4, "BLOCK_M": rows, "BLOCK_N": cuda_attention.NUM_KEYS}
    return compiled(kernels.attend_pages, constants | {"NUM_SPLITS": splits}, num_stages=3)


def compiled(kernel: Any, constants: dict[str, int], num_stages: int = 3) -> dict[str, Any]:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else _type(name) for name in names}
    aligned = [i for i, name in enumerate(names) if name not in constants and name not in UNALIGNED]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    result = triton.compile(
        source, target=H100, options={"num_warps": 4, "num_stages": num_stages, "enable_fp_fusion": True}
    )
    return {
        "cp_async": result.asm["ptx"].count("cp.async.cg"),
        "shared": result.metadata.shared,
        **_usage(result.asm["cubin"]),
    }


def _type(name: str) -> str:
    if name in TABLES:
        return "*i32"
    return POINTERS.get(name, "i32")


def _usage(cubin: bytes) -> dict[str, int]:
    """Registers a thread and bytes of stack (where spilled registers go), as cuobjdump reads them."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(program), "-res-usage", str(file)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


def main() -> None:
    write = {"NUM_HEADS": 8, "BLOCK_H": 8} | LLAMA_8B
    report = {
        "write": compiled(kernels.write_pages, write),
        "decode": attend(cuda_attention.DECODE_ROWS, 1),
        "decode, split": attend(cuda_attention.DECODE_ROWS, 16),
        "extend": attend(cuda_attention.EXTEND_ROWS, 1),
        "extend, split": attend(cuda_attention.EXTEND_ROWS, 8),
        "merge": compiled(kernels.merge_parts, {"HEAD_DIM": 128, "NUM_SPLITS": 64}),
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
