"""Facts read from assembly, with short hand-made examples."""

from benchmarks.kernel_static.assembly import hot_loop, loop_work, number, sass_spills

SASS = """
        /*0000*/                   LDG.E R4, desc[UR4][R2.64] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R8, desc[UR4][R2.64] ;
.L_x_0:
        /*0020*/                   LDG.E.U16 R5, desc[UR4][R6.64] ;
        /*0030*/              @!P1 BRA `(.L_x_0) ;
        /*0040*/                   LDGSTS.E.BYPASS.128 [R9], desc[UR4][R10.64] ;
        /*0050*/                   HGMMA.64x128x16.F32 R24, gdesc[UR8], R24 ;
        /*0060*/               @P0 BRA `(.L_x_1) ;
        /*0070*/                   STL [R1], R4 ;
        /*0080*/                   BRA `(.L_x_2) ;
.L_x_2:
"""
PTX = """
$L__BB0_1:
    wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%f1}, %rd1, %rd2, p, 1, 1, 0, 1;
    cp.async.cg.shared.global [ %r1 + 0 ], [ %rd3 + 0 ], 0x10, %r2;
    ld.global.v4.b32 { %r3, %r4, %r5, %r6 }, [ %rd4 + 0 ];
    ld.global.b16 { %rs1 }, [ %rd5 + 0 ];
    ex2.approx.ftz.f32 %f2, %f3;
    fma.rn.f32 %f4, %f5, %f6, %f7;
    @%p1 bra $L__BB0_1;
"""
AMD = """
.LBB0_2:
    global_load_dwordx4 v[0:3], v[4:5], off
    buffer_load_ushort v6, v7, s[0:3], 0 offen
    v_mfma_f32_16x16x16_f16 a[0:3], v[0:1], v[2:3], a[0:3]
    s_cbranch_scc1 .LBB0_2
    .vgpr_count:     88
    .vgpr_spill_count: 3
"""


def test_the_hot_loop_is_the_one_with_matrix_products_and_what_it_holds() -> None:
    loop = hot_loop(SASS, "sass")

    assert loop.load_bytes == (16, 2, 16)
    assert loop.matrix == "HGMMA"
    assert loop.narrow_loads == 1
    assert loop.wide_share == 32 / 34


def test_a_kernel_without_a_loop_is_its_own_hot_loop() -> None:
    assert hot_loop("LDG.E.64 R4, desc[UR4][R2.64] ;\nEXIT ;\n", "sass").load_bytes == (8,)


def test_spills_are_counted_though_the_compiler_says_none() -> None:
    assert sass_spills(SASS) == 1


def test_amd_listings_are_read_alike() -> None:
    loop = hot_loop(AMD, "amdgcn")

    assert loop.load_bytes == (16, 2)
    assert loop.matrix == "v_mfma"
    assert number(AMD, r"\.vgpr_spill_count:") == 3


def test_the_work_of_a_turn_is_that_of_all_threads() -> None:
    work = loop_work(PTX, num_warps=8)

    assert work.tensor_flop == 2 * 64 * 64 * 16 * 2
    assert work.load_bytes == (16 + 16 + 2) * 256
    assert work.exponentials == 256
    assert work.vector_flop == 2 * 256
