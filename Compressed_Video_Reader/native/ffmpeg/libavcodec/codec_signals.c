/*
 * Codec signals of a picture: buffers, and the way from the stage to the maps
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

#define _GNU_SOURCE /* MADV_HUGEPAGE */

#include "config.h"

#include <limits.h>
#include <string.h>
#if HAVE_MMAP
#include <sys/mman.h>
#endif
#if ARCH_X86_64
#include <emmintrin.h>
#endif

#include "libavutil/avutil.h"
#include "libavutil/common.h"
#include "libavutil/error.h"
#include "libavutil/intreadwrite.h"
#include "libavutil/macros.h"
#include "libavutil/mem.h"

#include "codec_signals_internal.h"

#define LINE_BYTES 64

/** 256 * log2(1 + i / 256) */
const uint8_t ff_codec_signals_log2[256] = {
      0,   1,   3,   4,   6,   7,   9,  10,  11,  13,  14,  16,  17,  18,  20,  21,
     22,  24,  25,  26,  28,  29,  30,  32,  33,  34,  36,  37,  38,  40,  41,  42,
     44,  45,  46,  47,  49,  50,  51,  52,  54,  55,  56,  57,  59,  60,  61,  62,
     63,  65,  66,  67,  68,  69,  71,  72,  73,  74,  75,  77,  78,  79,  80,  81,
     82,  84,  85,  86,  87,  88,  89,  90,  92,  93,  94,  95,  96,  97,  98,  99,
    100, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 116, 117,
    118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132, 133,
    134, 135, 136, 137, 138, 139, 140, 141, 142, 143, 144, 145, 146, 147, 148, 149,
    150, 151, 152, 153, 154, 155, 155, 156, 157, 158, 159, 160, 161, 162, 163, 164,
    165, 166, 167, 168, 169, 169, 170, 171, 172, 173, 174, 175, 176, 177, 178, 178,
    179, 180, 181, 182, 183, 184, 185, 185, 186, 187, 188, 189, 190, 191, 192, 192,
    193, 194, 195, 196, 197, 198, 198, 199, 200, 201, 202, 203, 203, 204, 205, 206,
    207, 208, 208, 209, 210, 211, 212, 212, 213, 214, 215, 216, 216, 217, 218, 219,
    220, 220, 221, 222, 223, 224, 224, 225, 226, 227, 228, 228, 229, 230, 231, 231,
    232, 233, 234, 234, 235, 236, 237, 238, 238, 239, 240, 241, 241, 242, 243, 244,
    244, 245, 246, 247, 247, 248, 249, 249, 250, 251, 252, 252, 253, 254, 255, 255,
};

static void *take(uintptr_t *cursor, size_t size)
{
    const uintptr_t taken = FFALIGN(*cursor, LINE_BYTES);

    *cursor = taken + size;
    return (void *)taken;
}

/** Lay the maps out in memory; returns the size, with room for any alignment of base. */
static size_t lay_out(CodecSignals *signals, int has_maps, uintptr_t base)
{
    const size_t blocks = (size_t)signals->block_stride * signals->block_height;
    uintptr_t cursor = base + sizeof(*signals);

    signals->state       = take(&cursor, blocks);
    if (!has_maps)
        return cursor - base + LINE_BYTES;
    signals->residual    = take(&cursor, blocks * 256 * sizeof(*signals->residual));
    // The lists follow each other at equal distance, so that a consumer can see one array.
    signals->motion[0]   = take(&cursor, 2 * blocks * 16 * sizeof(*signals->motion[0]));
    signals->motion[1]   = signals->motion[0] + blocks * 16;
    signals->distance[0] = take(&cursor, 2 * blocks * 16 * sizeof(*signals->distance[0]));
    signals->distance[1] = signals->distance[0] + blocks * 16;
    signals->bits        = take(&cursor, blocks * sizeof(*signals->bits));
    signals->qp          = take(&cursor, blocks);
    return cursor - base + LINE_BYTES;
}

#if HAVE_MMAP && defined(MADV_HUGEPAGE)
#define HUGE_PAGE ((size_t)2 << 20)

static void free_pages(void *opaque, uint8_t *data)
{
    munmap(data, (size_t)(uintptr_t)opaque);
}

/**
 * Zeroed memory on huge pages: a block of the maps touches many rows far from each other, which
 * with small pages costs more in address translation than in writing.
 */
static AVBufferRef *allocate(size_t size)
{
    const size_t length = FFALIGN(size, HUGE_PAGE);
    uint8_t *start, *data;
    AVBufferRef *buffer;

    if (size < HUGE_PAGE / 2)
        return av_buffer_allocz(size);
    start = mmap(NULL, length + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    data = (uint8_t *)FFALIGN((uintptr_t)start, HUGE_PAGE);
    if (data > start)
        munmap(start, data - start);
    if (data < start + HUGE_PAGE)
        munmap(data + length, start + HUGE_PAGE - data);
    madvise(data, length, MADV_HUGEPAGE);
    buffer = av_buffer_create(data, size, free_pages, (void *)(uintptr_t)length, 0);
    if (!buffer)
        munmap(data, length);
    return buffer;
}
#else
#define allocate av_buffer_allocz
#endif

static size_t lay_out_stage(CodecSignalsStage *stage, const CodecSignals *layout, uintptr_t base)
{
    const size_t blocks = (size_t)layout->block_stride * layout->block_height;
    const size_t staged = (size_t)layout->block_stride * CODEC_SIGNALS_STAGE_ROWS;
    uintptr_t cursor = base;

    stage->uniform[0] = take(&cursor, blocks * sizeof(*stage->uniform[0]));
    stage->uniform[1] = take(&cursor, blocks * sizeof(*stage->uniform[1]));
    stage->splits[0]  = take(&cursor, blocks * sizeof(*stage->splits[0]));
    stage->splits[1]  = take(&cursor, blocks * sizeof(*stage->splits[1]));
    stage->tiles      = take(&cursor, staged * sizeof(*stage->tiles));
    stage->state      = take(&cursor, staged);
    return cursor - base + LINE_BYTES;
}

static int prepare(CodecSignalsPool *pool, CodecSignals *layout, CodecSignalsKind kind)
{
    if (pool->block_width != layout->block_width || pool->block_height != layout->block_height)
        ff_codec_signals_uninit(pool);
    pool->block_width  = layout->block_width;
    pool->block_height = layout->block_height;
    if (!pool->pools[kind])
        pool->pools[kind] = av_buffer_pool_init(
            lay_out(layout, kind != CODEC_SIGNALS_WITHOUT_MAPS, 0), allocate);
    if (!pool->stage_memory &&
        (pool->stage_memory = av_mallocz(lay_out_stage(&pool->stage, layout, 0))))
        lay_out_stage(&pool->stage, layout, (uintptr_t)pool->stage_memory);
    return pool->pools[kind] && pool->stage_memory ? 0 : AVERROR(ENOMEM);
}

/** Unit of writing; bypasses the caches where the processor can. */
typedef uint64_t Chunk __attribute__((vector_size(16), may_alias));

static av_always_inline void store(Chunk *to, Chunk chunk)
{
#if ARCH_X86_64
    _mm_stream_si128((__m128i *)to, (__m128i)chunk);
#else
    *to = chunk;
#endif
}

/** Make stores that bypass the caches visible to the thread that reads the picture. */
static void fence(void)
{
#if ARCH_X86_64
    _mm_sfence();
#endif
}

/** Write the vectors of a row of blocks. */
static void write_vectors(Chunk *to, const uint64_t *uniform, const CodecSignalsSplit *splits,
                          int width)
{
    for (int x = 0; x < width; x++) {
        const uint64_t pair = (uint32_t)uniform[x] * UINT64_C(0x100000001);

        if (uniform[x] == CODEC_SIGNALS_SPLIT)
            for (int row = 0; row < 4; row++)
                store(to + row * width + x, *(const Chunk *)splits[x].motion[row]);
        else
            for (int row = 0; row < 4; row++)
                store(to + row * width + x, (Chunk) { pair, pair });
    }
}

static av_always_inline uint64_t distances_of(uint64_t uniform, const CodecSignalsSplit *split,
                                              int row)
{
    return uniform == CODEC_SIGNALS_SPLIT ? AV_RN64A(split->distance[row])
                                          : (uniform >> 32) * UINT64_C(0x1000100010001);
}

/** Write the distances of a row of blocks. */
static void write_distances(Chunk *to, const uint64_t *uniform, const CodecSignalsSplit *splits,
                            int width)
{
    for (int x = 0; x < width; x += 2) {
        const int is_split = !!((uniform[x] | uniform[x + 1]) & CODEC_SIGNALS_SPLIT);
        Chunk chunk;

        for (int row = 0; row < 4; row++) {
            if (!row || is_split)
                chunk = (Chunk) { distances_of(uniform[x], splits + x, row),
                                  distances_of(uniform[x + 1], splits + x + 1, row) };
            store(to + (row * width + x) / 2, chunk);
        }
    }
}

/** Write motion and distances of a list, unless all are 0 in the stage and in the maps. */
static void write_motion(CodecSignals *signals, int list)
{
    const CodecSignalsStage *stage = signals->stage;
    const int stride               = signals->block_stride;
    uint64_t any = 0;

    for (int i = 0; i < stride * signals->block_height; i++)
        any |= stage->uniform[list][i];
    if (!any && !signals->is_moving[list])
        return;
    signals->is_moving[list] = !!any;
    for (int y = 0; y < signals->block_height; y++) {
        const uint64_t *uniform         = stage->uniform[list] + y * stride;
        const CodecSignalsSplit *splits = stage->splits[list] + y * stride;
        const ptrdiff_t cell            = (ptrdiff_t)y * 16 * stride;

        write_vectors((Chunk *)(signals->motion[list] + cell), uniform, splits, stride);
        write_distances((Chunk *)(signals->distance[list] + cell), uniform, splits, stride);
    }
}

#define EACH_BYTE UINT64_C(0x0101010101010101)

/** Whether neither stage nor map has a residual in eight blocks, all of which are decoded. */
static int is_plain(const uint8_t *staged, const uint8_t *state)
{
    const uint64_t now = AV_RN64A(staged), former = AV_RN64A(state);

    return now == CODEC_SIGNALS_DECODED * EACH_BYTE &&
           !(former & CODEC_SIGNALS_HAS_RESIDUAL * EACH_BYTE);
}

/** Write four rows of two blocks side by side, which make up cache lines. */
static void write_residual(int16_t *to, ptrdiff_t stride, const int16_t *left, const int16_t *right)
{
    for (int row = 0; row < 4; row++, to += stride, left += 16, right += 16) {
        store((Chunk *)to,     ((const Chunk *)left)[0]);
        store((Chunk *)to + 1, ((const Chunk *)left)[1]);
        store((Chunk *)to + 2, ((const Chunk *)right)[0]);
        store((Chunk *)to + 3, ((const Chunk *)right)[1]);
    }
}

/** Write four rows of one block of a pair, where the other one is not decoded yet. */
static void write_half(int16_t *to, ptrdiff_t stride, const int16_t *from)
{
    for (int row = 0; row < 4; row++, to += stride, from += 16)
        memcpy(to, from, 16 * sizeof(*to));
}

/** Write the residual and the state of a row of blocks from the stage to the maps. */
static void flush_row(CodecSignals *signals, int y)
{
    static const CodecSignalsTile zeros;
    const CodecSignalsStage *stage = signals->stage;
    const int stride               = signals->block_stride;
    const uint8_t *staged          = stage->state + y * stride;
    uint8_t *state                 = signals->state + (stage->y + y) * stride;
    int16_t *residual              = signals->residual + (ptrdiff_t)(stage->y + y) * 256 * stride;

    for (int x = 0; x < stride; x += 2) {
        const CodecSignalsTile *tiles = &stage->tiles[y * stride + x];
        const int flags               = staged[x] | staged[x + 1] | state[x] | state[x + 1];
        // A block not decoded in this stage may be in another; beyond the picture there is none.
        const int is_left  = staged[x] & CODEC_SIGNALS_DECODED;
        const int is_right = staged[x + 1] & CODEC_SIGNALS_DECODED || x + 1 >= signals->block_width;

        // Most of a picture has no residual: pass over eight blocks at once.
        if (x % 8 == 0 && is_plain(staged + x, state + x)) {
            AV_COPY64(state + x, staged + x);
            x += 6;
            continue;
        }
        for (int i = 0; i < 4 && flags & CODEC_SIGNALS_ROWS; i++) {
            const int row        = CODEC_SIGNALS_ROW(i);
            const int16_t *left  = staged[x]     & row ? tiles[0][4 * i] : zeros[0];
            const int16_t *right = staged[x + 1] & row ? tiles[1][4 * i] : zeros[0];
            int16_t *to          = residual + 16 * x + 4 * i * 16 * stride;

            // Zeros are written where the map still holds the residual of a former picture.
            if (!(flags & row))
                continue;
            if (is_left && is_right)
                write_residual(to, 16 * stride, left, right);
            else if (is_left)
                write_half(to, 16 * stride, left);
            else if (is_right)
                write_half(to + 16, 16 * stride, right);
        }
        if (is_left)
            state[x] = staged[x];
        if (is_right)
            state[x + 1] = staged[x + 1];
    }
}

void ff_codec_signals_flush(CodecSignals *signals)
{
    CodecSignalsStage *stage = signals->stage;

    for (int y = 0; y < FFMIN(stage->height, signals->block_height - stage->y); y++)
        flush_row(signals, y);
    memset(stage->state, 0, (size_t)stage->height * signals->block_stride);
}

static void empty_stage(CodecSignalsStage *stage, const CodecSignals *layout)
{
    const size_t blocks = (size_t)layout->block_stride * layout->block_height;

    stage->height = 0;
    memset(stage->state, 0, CODEC_SIGNALS_STAGE_ROWS * layout->block_stride);
    for (int list = 0; list < 2; list++)
        memset(stage->uniform[list], 0, blocks * sizeof(*stage->uniform[list]));
}

int ff_codec_signals_attach(AVCodecContext *avctx, CodecSignalsPool *pool, AVFrame *frame,
                            AVBufferRef **buffer, int width, int height, int is_bidirectional)
{
    CodecSignalsSink *sink      = avctx->opaque;
    const int has_maps          = !!(avctx->export_side_data & CODEC_SIGNALS_EXPORT);
    const CodecSignalsKind kind = !has_maps        ? CODEC_SIGNALS_WITHOUT_MAPS
                                : is_bidirectional ? CODEC_SIGNALS_TWO_LISTS
                                                   : CODEC_SIGNALS_ONE_LIST;
    CodecSignals layout         = {
        .picture_id     = frame->pts,
        .recovered_from = -1,
        .block_width    = (width  + 15) / 16,
        .block_height   = (height + 15) / 16,
        .num_references = 1,
    };

    av_buffer_unref(buffer);
    av_buffer_unref(&frame->opaque_ref);
    // A multiple of 8, so that rows of all maps begin at a cache line.
    layout.block_stride = FFALIGN(layout.block_width, 8);
    if (prepare(pool, &layout, kind) < 0 ||
        !(*buffer = av_buffer_pool_get(pool->pools[kind])))
        return AVERROR(ENOMEM);
    lay_out(&layout, has_maps, (uintptr_t)(*buffer)->data);
    layout.stage    = &pool->stage;
    layout.sequence = sink ? sink->num_started++ : 0;
    // The buffer may hold motion and residual of a former picture; flushing overwrites them.
    memcpy(layout.is_moving, ff_codec_signals(*buffer)->is_moving, sizeof(layout.is_moving));
    memcpy((*buffer)->data, &layout, sizeof(layout));
    for (int i = 0; i < layout.block_stride * layout.block_height; i++)
        layout.state[i] &= ~CODEC_SIGNALS_DECODED;
    if (has_maps)
        empty_stage(&pool->stage, &layout);

    frame->opaque_ref = av_buffer_ref(*buffer);
    return frame->opaque_ref ? 0 : AVERROR(ENOMEM);
}

void ff_codec_signals_finish(AVCodecContext *avctx, AVBufferRef **buffer)
{
    CodecSignals *signals  = ff_codec_signals(*buffer);
    CodecSignalsSink *sink = avctx->opaque;

    if (!signals)
        return;
    if (signals->residual) {
        ff_codec_signals_flush(signals);
        write_motion(signals, 0);
        write_motion(signals, 1);
        fence();
    }
    if (signals->references[0].is_used)
        signals->flags |= CODEC_SIGNALS_MISSING_REF;
    if (sink)
        sink->finished(sink, signals);
    av_buffer_unref(buffer);
}

void ff_codec_signals_disown(AVCodecContext *avctx, AVFrame *frame, AVBufferRef **buffer)
{
    CodecSignalsSink *sink = avctx->opaque;

    frame->opaque = NULL;
    if (sink && --sink->num_started > sink->num_before)
        frame->opaque = sink;
    av_buffer_unref(&frame->opaque_ref);
    av_buffer_unref(buffer);
    frame->pts = AV_NOPTS_VALUE;
}

void ff_codec_signals_uninit(CodecSignalsPool *pool)
{
    for (int i = 0; i < FF_ARRAY_ELEMS(pool->pools); i++)
        av_buffer_pool_uninit(&pool->pools[i]);
    av_freep(&pool->stage_memory);
}

int ff_codec_signals_reference(CodecSignals *signals, const AVFrame *reference)
{
    int64_t distance;

    if (!reference || reference->pts == AV_NOPTS_VALUE || signals->picture_id == AV_NOPTS_VALUE ||
        reference->pts == signals->picture_id)
        return 0;
    for (int i = 1; i < signals->num_references; i++)
        if (signals->references[i].picture_id == reference->pts)
            return i;
    if (signals->num_references == CODEC_SIGNALS_MAX_REFS)
        return 0;
    distance = reference->pts - (uint64_t)signals->picture_id;
    if (distance < -INT16_MAX || distance > INT16_MAX)
        signals->flags |= CODEC_SIGNALS_FAR_REF;
    signals->references[signals->num_references] = (CodecSignalsReference) {
        .picture_id = reference->pts,
        .distance   = av_clip64(distance, -INT16_MAX, INT16_MAX),
    };
    return signals->num_references++;
}
