/*
 * What a decoder knows about a picture besides its samples
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
    signals->uniform[0]  = take(&cursor, 2 * blocks * sizeof(*signals->uniform[0]));
    signals->uniform[1]  = signals->uniform[0] + blocks;
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

static int prepare(CodecSignalsPool *pool, CodecSignals *layout, int has_maps)
{
    if (pool->block_width != layout->block_width || pool->block_height != layout->block_height)
        ff_codec_signals_uninit(pool);
    pool->block_width  = layout->block_width;
    pool->block_height = layout->block_height;
    if (!pool->pools[has_maps])
        pool->pools[has_maps] = av_buffer_pool_init(lay_out(layout, has_maps, 0), allocate);
    if (!pool->stage_memory) {
        pool->stage_memory = av_mallocz(sizeof(*pool->stage) + LINE_BYTES);
        pool->stage = (void *)FFALIGN((uintptr_t)pool->stage_memory, LINE_BYTES);
    }
    return pool->pools[has_maps] && pool->stage_memory ? 0 : AVERROR(ENOMEM);
}

int ff_codec_signals_attach(AVCodecContext *avctx, CodecSignalsPool *pool, AVFrame *frame,
                            AVBufferRef **buffer, int width, int height)
{
    CodecSignalsSink *sink = avctx->opaque;
    const int has_maps     = !!(avctx->export_side_data & CODEC_SIGNALS_EXPORT);
    CodecSignals layout    = {
        .picture_id     = frame->pts,
        .recovered_from = -1,
        .block_width    = (width  + 15) / 16,
        .block_height   = (height + 15) / 16,
        .num_references = 1,
    };

    av_buffer_unref(buffer);
    av_buffer_unref(&frame->opaque_ref);
    // Rows of all maps so begin with a cache line.
    layout.block_stride = FFALIGN(layout.block_width, 8);
    if (prepare(pool, &layout, has_maps) < 0 ||
        !(*buffer = av_buffer_pool_get(pool->pools[has_maps])))
        return AVERROR(ENOMEM);
    lay_out(&layout, has_maps, (uintptr_t)(*buffer)->data);
    layout.stage    = pool->stage;
    layout.sequence = sink ? sink->num_started++ : 0;
    memcpy((*buffer)->data, &layout, sizeof(layout));
    memset(pool->stage, 0, sizeof(*pool->stage));
    // A former picture may have left a residual; blocks of it are overwritten on the way.
    for (int i = 0; i < layout.block_stride * layout.block_height; i++)
        layout.state[i] &= ~CODEC_SIGNALS_DECODED;

    frame->opaque_ref = av_buffer_ref(*buffer);
    return frame->opaque_ref ? 0 : AVERROR(ENOMEM);
}

void ff_codec_signals_finish(AVCodecContext *avctx, AVBufferRef **buffer)
{
    CodecSignals *signals  = ff_codec_signals(*buffer);
    CodecSignalsSink *sink = avctx->opaque;

    if (!signals)
        return;
    if (signals->residual)
        ff_codec_signals_flush(signals);
    if (signals->references[0].is_used)
        signals->flags |= CODEC_SIGNALS_MISSING_REF;
#if ARCH_X86_64
    _mm_sfence(); // what went past the caches must be seen by whoever reads the picture
#endif
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
    for (int i = 0; i < 2; i++)
        av_buffer_pool_uninit(&pool->pools[i]);
    av_freep(&pool->stage_memory);
}

/** Copy rows; whole cache lines go past the caches. */
static void write_rows(void *to, ptrdiff_t to_stride, const void *from, ptrdiff_t from_stride,
                       int bytes, int rows)
{
    uint8_t *target       = to;
    const uint8_t *source = from;

    for (; rows > 0; rows--, target += to_stride, source += from_stride) {
#if ARCH_X86_64
        if (bytes % LINE_BYTES == 0) {
            for (int i = 0; i < bytes; i += 16)
                _mm_stream_si128((__m128i *)(target + i),
                                 _mm_load_si128((const __m128i *)(source + i)));
            continue;
        }
#endif
        // A size known to the compiler saves a call.
        if (bytes == LINE_BYTES / 2)
            memcpy(target, source, LINE_BYTES / 2);
        else
            memcpy(target, source, bytes);
    }
}

/** Write the residual of width blocks side by side, and clear it in the stage. */
static void flush_residual(CodecSignals *signals, int x, int y, int width)
{
    CodecSignalsStage *stage = signals->stage;
    const ptrdiff_t stride   = 16 * signals->block_stride;
    int16_t *source          = &stage->residual[16 * y][16 * x];

    write_rows(signals->residual + 16 * (stage->y + y) * stride + 16 * (stage->x + x),
               stride * sizeof(*source), source, sizeof(stage->residual[0]),
               16 * width * sizeof(*source), 16);
    for (int row = 0; row < 16; row++)
        memset(stage->residual[16 * y + row] + 16 * x, 0, 16 * width * sizeof(*source));
}

/** Spread what is the same in all cells of a block over them. */
static void expand(CodecSignalsStage *stage, int list, int x, int y, uint64_t uniform)
{
    const uint64_t vectors   = (uint32_t)uniform * UINT64_C(0x100000001);
    const uint64_t distances = (uniform >> 32) * UINT64_C(0x1000100010001);

    for (int row = 4 * y; row < 4 * y + 4; row++) {
        AV_WN64(stage->motion[list][row] + 4 * x, vectors);
        AV_WN64(stage->motion[list][row] + 4 * x + 2, vectors);
        AV_WN64(stage->distance[list][row] + 4 * x, distances);
    }
}

/** Write vectors and distances of width blocks side by side, where they are not there already. */
static void flush_motion(CodecSignals *signals, int x, int y, int width)
{
    CodecSignalsStage *stage = signals->stage;
    const ptrdiff_t stride   = 4 * signals->block_stride;
    const ptrdiff_t cell     = 4 * (stage->y + y) * stride + 4 * (stage->x + x);
    const int block          = (stage->y + y) * signals->block_stride + stage->x + x;

    for (int list = 0; list < 2; list++) {
        const uint64_t *now = stage->uniform[list] + y * stage->width + x;
        uint64_t *former    = signals->uniform[list] + block;
        int is_same         = 1;

        for (int i = 0; i < width; i++)
            is_same &= now[i] == former[i] && now[i] != CODEC_SIGNALS_SPLIT;
        if (is_same)
            continue;
        for (int i = 0; i < width; i++) {
            if (now[i] != CODEC_SIGNALS_SPLIT)
                expand(stage, list, x + i, y, now[i]);
            former[i] = now[i];
        }
        write_rows(signals->motion[list] + cell, stride * sizeof(*signals->motion[list]),
                   stage->motion[list][4 * y] + 4 * x, sizeof(stage->motion[list][0]),
                   4 * width * sizeof(*signals->motion[list]), 4);
        write_rows(signals->distance[list] + cell, stride * sizeof(*signals->distance[list]),
                   stage->distance[list][4 * y] + 4 * x, sizeof(stage->distance[list][0]),
                   4 * width * sizeof(*signals->distance[list]), 4);
    }
}

static void flush_row(CodecSignals *signals, int y)
{
    CodecSignalsStage *stage = signals->stage;
    uint8_t *staged = stage->state + y * stage->width;
    uint8_t *state  = signals->state + (stage->y + y) * signals->block_stride + stage->x;
    int decoded = 0;

    for (int x = 0; x < stage->width; x++)
        decoded += !!(staged[x] & CODEC_SIGNALS_DECODED);
    if (decoded == stage->width)
        flush_motion(signals, 0, y, stage->width);
    else
        for (int x = 0; x < stage->width; x++)
            if (staged[x] & CODEC_SIGNALS_DECODED)
                flush_motion(signals, x, y, 1);

    for (int x = 0; x < stage->width; x += 2) {
        // Two blocks make up a cache line; one that is not decoded here may be elsewhere.
        const int pair = x + 1 < stage->width && staged[x] & staged[x + 1] & CODEC_SIGNALS_DECODED;

        if (pair && (staged[x] | staged[x + 1] | state[x] | state[x + 1]) &
                    CODEC_SIGNALS_HAS_RESIDUAL)
            flush_residual(signals, x, y, 2);
        else if (!pair)
            for (int i = x; i < FFMIN(x + 2, stage->width); i++)
                if (staged[i] & CODEC_SIGNALS_DECODED &&
                    (staged[i] | state[i]) & CODEC_SIGNALS_HAS_RESIDUAL)
                    flush_residual(signals, i, y, 1);
    }
    for (int x = 0; x < stage->width; x++)
        if (staged[x] & CODEC_SIGNALS_DECODED)
            state[x] = staged[x];
}

void ff_codec_signals_flush(CodecSignals *signals)
{
    CodecSignalsStage *stage = signals->stage;
    const int height = FFMIN(stage->height, signals->block_height - stage->y);

    for (int y = 0; y < height; y++)
        flush_row(signals, y);
    // What broken data left of blocks that were begun only.
    for (int i = 0; i < stage->width * stage->height; i++)
        if (stage->state[i] == CODEC_SIGNALS_HAS_RESIDUAL)
            memset(stage->residual, 0, sizeof(stage->residual));
    memset(stage->state, 0, sizeof(stage->state));
    memset(stage->uniform, 0, sizeof(stage->uniform));
}

/** Have what the stage will be compared with at hand by the time that it is written out. */
static void prefetch(const CodecSignals *signals)
{
    const CodecSignalsStage *stage = signals->stage;
    const int height = FFMIN(stage->height, signals->block_height - stage->y);

    for (int y = 0; y < height; y++) {
        const int block = (stage->y + y) * signals->block_stride + stage->x;

        __builtin_prefetch(signals->uniform[0] + block, 1);
        __builtin_prefetch(signals->uniform[1] + block, 1);
        __builtin_prefetch(signals->state + block, 1);
    }
}

void ff_codec_signals_stage(CodecSignals *signals, int x, int y, int width, int height)
{
    CodecSignalsStage *stage = signals->stage;

    if (stage->x == x && stage->y == y && stage->width == width && stage->height == height)
        return;
    ff_codec_signals_flush(signals);
    stage->x      = x;
    stage->y      = y;
    stage->width  = width;
    stage->height = height;
    prefetch(signals);
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
