/*
 * H.264: motion, residual, bits and quantiser of a picture
 *
 * This file is part of a modified FFmpeg.
 *
 * FFmpeg is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * FFmpeg is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with FFmpeg; if not, write to the Free Software
 * Foundation, Inc., 51 Franklin Street, Fifth Floor, Boston, MA 02110-1301 USA
 */

#include <string.h>

#include "libavutil/common.h"
#include "libavutil/intreadwrite.h"

#include "codec_signals_internal.h"
#include "h264_signals.h"
#include "h264dec.h"

/** Samples from one row of a tile to the next. */
#define STRIDE 16

static int64_t position(const H264Context *h, const H264SliceContext *sl)
{
    return CABAC(h) ? ff_codec_signals_cabac_position(&sl->cabac)
                    : 256 * (int64_t)get_bits_count(&sl->gb);
}

void ff_h264_signals_slice(const H264Context *h, H264SliceContext *sl)
{
    CodecSignals *signals = ff_codec_signals(h->signals_buffer);

    sl->signals = NULL;
    if (!signals)
        return;
    if (FIELD_OR_MBAFF_PICTURE(h)) {
        signals->flags |= CODEC_SIGNALS_INTERLACED;
        return;
    }
    sl->signals = signals;
    memset(sl->signals_gaps, 0, sizeof(sl->signals_gaps));
    for (int list = 0; list < sl->list_count; list++)
        for (int i = 0; i < sl->ref_count[list]; i++) {
            const H264Picture *parent = sl->ref_list[list][i].parent;
            const int is_lost = !parent || parent->invalid_gap ||
                                sl->signals_substitutes[list] >> i & 1;

            sl->signals_gaps[list]          |= (uint64_t)(parent && parent->f->opaque) << i;
            sl->signals_reference[list][i]   =
                ff_codec_signals_reference(signals, is_lost ? NULL : parent->f);
        }
}

void ff_h264_signals_begin(const H264Context *h, H264SliceContext *sl)
{
    sl->signals_position     = position(h, sl);
    sl->signals_has_residual = 0;
}

static int step_to(H264SliceContext *sl, int list, int ref)
{
    if (ref < 0)
        return 0;
    if (sl->signals_gaps[list] >> ref & 1)
        sl->signals->flags |= CODEC_SIGNALS_DAMAGED;
    return ff_codec_signals_use(sl->signals, sl->signals_reference[list][ref]);
}

/** Export the motion of a macroblock with several partitions. */
static av_noinline void export_parts(const H264Context *h, H264SliceContext *sl, int list,
                                     CodecSignalsSplit *split)
{
    const int16_t (*source)[2] =
        h->cur_pic.motion_val[list] + 4 * sl->mb_x + 4 * sl->mb_y * h->b_stride;
    const int8_t *index        = h->cur_pic.ref_index[list] + 4 * sl->mb_xy;

    for (int part = 0; part < 4; part++) {
        const int step = step_to(sl, list, index[part]);
        const int left = 2 * (part & 1);

        for (int y = part & 2; y < (part & 2) + 2; y++) {
            const uint64_t vectors = AV_RN64(source + y * h->b_stride + left);

            AV_WN64A(split->motion[y] + left, step ? vectors : 0);
            AV_WN32A(split->distance[y] + left, (uint16_t)step * 0x10001u);
        }
    }
}

static void export_motion(const H264Context *h, H264SliceContext *sl, int list, int mb_type,
                          int block)
{
    uint64_t *uniform = &sl->signals->stage->uniform[list][block];

    if (IS_INTRA(mb_type) || list >= sl->list_count || !USES_LIST(mb_type, list)) {
        *uniform = 0;
    } else if (IS_16X16(mb_type)) {
        const int step = step_to(sl, list, h->cur_pic.ref_index[list][4 * sl->mb_xy]);
        const void *vector =
            h->cur_pic.motion_val[list] + 4 * sl->mb_x + 4 * sl->mb_y * h->b_stride;

        *uniform = step ? CODEC_SIGNALS_UNIFORM(AV_RN32(vector), step) : 0;
    } else {
        export_parts(h, sl, list, ff_codec_signals_split(sl->signals->stage, list, block));
    }
}

/** Note which references are used, where there are no maps. */
static av_noinline void trace_motion(const H264Context *h, H264SliceContext *sl, int list)
{
    const int mb_type   = h->cur_pic.mb_type[sl->mb_xy];
    const int8_t *index = h->cur_pic.ref_index[list] + 4 * sl->mb_xy;

    if (!IS_INTRA(mb_type) && USES_LIST(mb_type, list))
        for (int part = 0; part < (IS_16X16(mb_type) ? 1 : 4); part++)
            step_to(sl, list, index[part]);
}

void ff_h264_signals_end_mb(const H264Context *h, H264SliceContext *sl)
{
    CodecSignals *signals    = sl->signals;
    CodecSignalsStage *stage = signals->stage;
    const int block          = sl->mb_y * signals->block_stride + sl->mb_x;
    const int mb_type        = h->cur_pic.mb_type[sl->mb_xy];
    const int64_t end        = position(h, sl);

    if (!signals->residual) {
        signals->state[block] = CODEC_SIGNALS_DECODED;
        for (int list = 0; list < sl->list_count; list++)
            trace_motion(h, sl, list);
        return;
    }
    signals->bits[block] = (end - sl->signals_position) / 256.0f;
    signals->qp[block]   = h->cur_pic.qscale_table[sl->mb_xy];
    sl->signals_position = end;
    export_motion(h, sl, 0, mb_type, block);
    export_motion(h, sl, 1, mb_type, block);
    ff_codec_signals_stage(signals, sl->mb_y, 1);
    stage->state[sl->mb_x]   = CODEC_SIGNALS_DECODED | sl->signals_has_residual;
    sl->signals_has_residual = 0;
}

void ff_h264_signals_end_slice(const H264Context *h, H264SliceContext *sl, int is_broken)
{
    if (is_broken)
        sl->signals->flags |= CODEC_SIGNALS_DAMAGED;
    else
        ff_codec_signals_check_end(sl->signals, CABAC(h)
            ? ff_codec_signals_cabac_left(&sl->cabac, &sl->gb) : get_bits_left(&sl->gb), 8);
}

void ff_h264_signals_recovery(H264Context *h, int is_complete)
{
    CodecSignals *signals = ff_codec_signals(h->signals_buffer);
    int64_t *start        = &h->signals_pool.recovery_start;

    if (!signals)
        return;
    if (!is_complete) {
        *start = signals->sequence;
    } else {
        // Without a recovery point before it, the picture is one itself.
        signals->recovered_from = *start < 0 ? signals->sequence : *start;
        *start = -1;
    }
}

/*
 * The inverse transforms of the standard. The decoder's own cannot be used: they add to clipped
 * samples and clear the coefficients. Streams of 8 bits use 16-bit lanes, as the decoder's assembly
 * does; deeper ones use plain 32-bit code.
 */

// Sums of damaged coefficients wrap around, which is defined for unsigned lanes alone.
typedef uint16_t Lanes4 __attribute__((vector_size(8)));
typedef uint16_t Lanes8 __attribute__((vector_size(16)));
typedef int16_t Signed4 __attribute__((vector_size(8)));
typedef int16_t Signed8 __attribute__((vector_size(16)));

/** Arithmetic shift to the right of lanes taken as signed numbers. */
#define SHIFT4(v, n)     ((Lanes4)((Signed4)(v) >> (n)))
#define SHIFT8(v, n)     ((Lanes8)((Signed8)(v) >> (n)))
#define SHIFT_DEEP(v, n) ((unsigned)((int)(v) >> (n)))

#if defined(__clang__)
#define SHUFFLE4(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define SHUFFLE8(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE4(a, b, ...) __builtin_shuffle(a, b, (Lanes4){ __VA_ARGS__ })
#define SHUFFLE8(a, b, ...) __builtin_shuffle(a, b, (Lanes8){ __VA_ARGS__ })
#endif

#define LOW4(a, b)   SHUFFLE4(a, b, 0, 4, 1, 5)
#define HIGH4(a, b)  SHUFFLE4(a, b, 2, 6, 3, 7)
#define LOW8(a, b)   SHUFFLE8(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH8(a, b)  SHUFFLE8(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

static av_always_inline void transpose4(Lanes4 r[4])
{
    const Lanes4 a = LOW4(r[0], r[2]), b = HIGH4(r[0], r[2]);
    const Lanes4 c = LOW4(r[1], r[3]), d = HIGH4(r[1], r[3]);

    r[0] = LOW4(a, c);
    r[1] = HIGH4(a, c);
    r[2] = LOW4(b, d);
    r[3] = HIGH4(b, d);
}

/** One step of a perfect shuffle; three of them transpose. */
static av_always_inline void interleave8(Lanes8 to[8], const Lanes8 from[8])
{
    for (int i = 0; i < 4; i++) {
        to[2 * i]     = LOW8(from[i], from[i + 4]);
        to[2 * i + 1] = HIGH8(from[i], from[i + 4]);
    }
}

static av_always_inline void transpose8(Lanes8 r[8])
{
    Lanes8 t[8];

    interleave8(t, r);
    interleave8(r, t);
    interleave8(t, r);
    memcpy(r, t, sizeof(t));
}

#define BUTTERFLY4(r, SHIFT)                                                    \
    do {                                                                        \
        const __typeof__(r[0]) z0 = r[0] + r[2], z1 = r[0] - r[2];              \
        const __typeof__(r[0]) z2 = SHIFT(r[1], 1) - r[3];                      \
        const __typeof__(r[0]) z3 = r[1] + SHIFT(r[3], 1);                      \
        r[0] = z0 + z3;                                                         \
        r[1] = z1 + z2;                                                         \
        r[2] = z1 - z2;                                                         \
        r[3] = z0 - z3;                                                         \
    } while (0)

#define BUTTERFLY8(r, SHIFT)                                                    \
    do {                                                                        \
        const __typeof__(r[0]) a0 = r[0] + r[4], a2 = r[0] - r[4];              \
        const __typeof__(r[0]) a4 = SHIFT(r[2], 1) - r[6];                      \
        const __typeof__(r[0]) a6 = SHIFT(r[6], 1) + r[2];                      \
        const __typeof__(r[0]) b0 = a0 + a6, b2 = a2 + a4;                      \
        const __typeof__(r[0]) b4 = a2 - a4, b6 = a0 - a6;                      \
        const __typeof__(r[0]) a1 = r[5] - r[3] - r[7] - SHIFT(r[7], 1);        \
        const __typeof__(r[0]) a3 = r[1] + r[7] - r[3] - SHIFT(r[3], 1);        \
        const __typeof__(r[0]) a5 = r[7] - r[1] + r[5] + SHIFT(r[5], 1);        \
        const __typeof__(r[0]) a7 = r[3] + r[5] + r[1] + SHIFT(r[1], 1);        \
        const __typeof__(r[0]) b1 = SHIFT(a7, 2) + a1, b3 = a3 + SHIFT(a5, 2);  \
        const __typeof__(r[0]) b5 = SHIFT(a3, 2) - a5, b7 = a7 - SHIFT(a1, 2);  \
        r[0] = b0 + b7;                                                         \
        r[7] = b0 - b7;                                                         \
        r[1] = b2 + b5;                                                         \
        r[6] = b2 - b5;                                                         \
        r[2] = b4 + b3;                                                         \
        r[5] = b4 - b3;                                                         \
        r[3] = b6 + b1;                                                         \
        r[4] = b6 - b1;                                                         \
    } while (0)

/** Transform a block of 4x4. Returns whether any sample is not zero: small ones round to 0. */
static int transform4(int16_t *to, const int16_t *block)
{
    Lanes4 r[4], any = { 0 };

    memcpy(r, block, sizeof(r));
    r[0] += (Lanes4){ 32, 0, 0, 0 };
    BUTTERFLY4(r, SHIFT4);
    transpose4(r);
    BUTTERFLY4(r, SHIFT4);
    for (int i = 0; i < 4; i++) {
        const Lanes4 row = SHIFT4(r[i], 6);
        memcpy(to + i * STRIDE, &row, sizeof(row));
        any |= row;
    }
    return !!AV_RN64(&any);
}

/** Transform a block of 8x8. Returns whether any sample is not zero. */
static int transform8(int16_t *to, const int16_t *block)
{
    Lanes8 r[8], any = { 0 };

    memcpy(r, block, sizeof(r));
    r[0] += (Lanes8){ 32, 0, 0, 0, 0, 0, 0, 0 };
    BUTTERFLY8(r, SHIFT8);
    transpose8(r);
    BUTTERFLY8(r, SHIFT8);
    for (int i = 0; i < 8; i++) {
        const Lanes8 row = SHIFT8(r[i], 6);
        memcpy(to + i * STRIDE, &row, sizeof(row));
        any |= row;
    }
    return !!(AV_RN64(&any) | AV_RN64((const uint8_t *)&any + 8));
}

/** Transform a block of more than 8 bits per sample. */
static av_noinline void transform_deep(int16_t *to, const int32_t *block, int side)
{
    unsigned columns[64], r[8];

    for (int i = 0; i < side; i++) {
        for (int k = 0; k < side; k++)
            r[k] = (unsigned)block[i + k * side] + (i + k ? 0 : 32);
        if (side == 8)
            BUTTERFLY8(r, SHIFT_DEEP);
        else
            BUTTERFLY4(r, SHIFT_DEEP);
        memcpy(columns + i * side, r, side * sizeof(*r));
    }
    for (int i = 0; i < side; i++) {
        for (int k = 0; k < side; k++)
            r[k] = columns[i + k * side];
        if (side == 8)
            BUTTERFLY8(r, SHIFT_DEEP);
        else
            BUTTERFLY4(r, SHIFT_DEEP);
        for (int k = 0; k < side; k++)
            to[i + k * STRIDE] = av_clip_int16((int)SHIFT_DEEP(r[k], 6));
    }
}

typedef struct Macroblock {
    CodecSignalsTile *tile; ///< the macroblock's tile in the stage
    const int16_t *blocks; ///< coefficients, 32 bits each where deep
    const uint8_t *counts; ///< number of non-zero coefficients, indexed by scan8
    int deep, is_bypass;
    int count_of_dc;       ///< value of counts for a block with only its first coefficient
} Macroblock;

static const int16_t *block_of(const Macroblock *mb, int i)
{
    return mb->blocks + (i * 16 << mb->deep);
}

static int dc_of(const Macroblock *mb, int i)
{
    return mb->deep ? *(const int32_t *)block_of(mb, i) : *block_of(mb, i);
}

static int16_t *samples_of(const Macroblock *mb, int i)
{
    // scan8 holds the place of block i on a grid of 8 columns.
    const int place = scan8[i] - scan8[0];
    return (*mb->tile)[4 * (place >> 3)] + 4 * (place & 7);
}

/** Copy a lossless block, whose coefficients are samples. */
static av_noinline void copy_block(const Macroblock *mb, int i, int side)
{
    int16_t *to = samples_of(mb, i);

    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            to[y * STRIDE + x] =
                mb->deep ? av_clip_int16(((const int32_t *)block_of(mb, i))[y * side + x])
                         : block_of(mb, i)[y * side + x];
}

/** Fill a block that has only its first coefficient. Returns whether that rounds to non-zero. */
static int fill_block(const Macroblock *mb, int i, int side)
{
    int16_t *to       = samples_of(mb, i);
    const int16_t all = mb->deep ? av_clip_int16((int)(dc_of(mb, i) + 32u) >> 6)
                                 : (int16_t)(dc_of(mb, i) + 32) >> 6;

    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x += 4)
            AV_WN64A(to + y * STRIDE + x, (uint16_t)all * UINT64_C(0x1000100010001));
    return !!all;
}

/** Write the residual of a block to the tile. Returns whether it may be non-zero. */
static int write_block(const Macroblock *mb, int i, int side)
{
    if (!mb->is_bypass && mb->counts[scan8[i]] == mb->count_of_dc && dc_of(mb, i))
        return fill_block(mb, i, side);
    if (!mb->is_bypass && !mb->deep)
        return side == 8 ? transform8(samples_of(mb, i), block_of(mb, i))
                         : transform4(samples_of(mb, i), block_of(mb, i));
    if (mb->is_bypass)
        copy_block(mb, i, side);
    else
        transform_deep(samples_of(mb, i), (const int32_t *)block_of(mb, i), side);
    return 1;
}

/** Sum up a lossless block coded as differences along its direction of prediction. */
static void accumulate(int16_t *samples, int side, int is_horizontal)
{
    const int back = is_horizontal ? 1 : STRIDE;

    for (int y = !is_horizontal; y < side; y++)
        for (int x = is_horizontal; x < side; x++)
            samples[y * STRIDE + x] =
                av_clip_int16(samples[y * STRIDE + x] + samples[y * STRIDE + x - back]);
}

/** Write the residual of an Intra_16x16 macroblock. Returns the state bits of non-zero rows. */
static av_noinline int residual_16x16(const H264SliceContext *sl, const Macroblock *mb,
                                      int is_differential)
{
    int is_coded = 0;

    ff_codec_signals_clear(mb->tile, CODEC_SIGNALS_ROWS);
    for (int i = 0; i < 16; i++)
        if (mb->counts[scan8[i]] || dc_of(mb, i))
            is_coded |= write_block(mb, i, 4);
    if (is_coded && is_differential && (sl->intra16x16_pred_mode == VERT_PRED8x8 ||
                                        sl->intra16x16_pred_mode == HOR_PRED8x8))
        accumulate((*mb->tile)[0], 16, sl->intra16x16_pred_mode == HOR_PRED8x8);
    return is_coded ? CODEC_SIGNALS_ROWS : 0;
}

/** Write the residual of other macroblocks, by blocks. Returns the state bits of non-zero rows. */
static int residual_blocks(const H264SliceContext *sl, const Macroblock *mb, int side,
                           int is_differential)
{
    static const uint8_t numbers[4][4] = {
        { 0, 1, 4, 5 }, { 2, 3, 6, 7 }, { 8, 9, 12, 13 }, { 10, 11, 14, 15 },
    };
    int rows = 0;

    for (int y = 0; y < 4; y += side / 4) {
        // One byte for each cell; few are not zero.
        uint32_t counts = AV_RL32(mb->counts + scan8[0] + 8 * y) & (side == 8 ? 0xFF00FF : ~0u);
        const int these = CODEC_SIGNALS_ROW(y) * (side == 8 ? 3 : 1);

        if (!counts)
            continue;
        ff_codec_signals_clear(mb->tile, these);
        while (counts) {
            const int x = ff_ctz(counts) / 8, i = numbers[y][x];

            counts &= ~(255u << 8 * x);
            rows   |= write_block(mb, i, side) ? these : 0;
            if (is_differential && sl->intra4x4_pred_mode_cache[scan8[i]] <= HOR_PRED)
                accumulate(samples_of(mb, i), side,
                           sl->intra4x4_pred_mode_cache[scan8[i]] == HOR_PRED);
        }
    }
    return rows;
}

void ff_h264_signals_residual(const H264Context *h, H264SliceContext *sl, int mb_type,
                              int is_bypass, int pixel_shift)
{
    CodecSignalsStage *stage  = sl->signals->stage;
    const int is_differential = is_bypass && IS_INTRA(mb_type) && h->ps.sps->profile_idc == 244;
    const Macroblock mb = {
        .tile        = &stage->tiles[sl->mb_x],
        .blocks      = sl->mb,
        .counts      = sl->non_zero_count_cache,
        .deep        = pixel_shift,
        .is_bypass   = is_bypass,
        .count_of_dc = !IS_INTRA16x16(mb_type),
    };
    int rows;

    if (!sl->signals->residual || !(IS_INTRA(mb_type) || sl->cbp & 15))
        return;
    ff_codec_signals_stage(sl->signals, sl->mb_y, 1);
    if (IS_INTRA16x16(mb_type))
        rows = residual_16x16(sl, &mb, is_differential);
    else
        rows = residual_blocks(sl, &mb, IS_8x8DCT(mb_type) ? 8 : 4, is_differential);
    sl->signals_has_residual = rows ? rows | CODEC_SIGNALS_HAS_RESIDUAL : 0;
}
