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

#include <limits.h>
#include <string.h>

#include "libavutil/common.h"
#include "libavutil/error.h"
#include "libavutil/macros.h"

#include "codec_signals_internal.h"

#define ALIGNMENT 64

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

static void *take(uint8_t **cursor, size_t size)
{
    void *taken = *cursor;
    *cursor += FFALIGN(size, ALIGNMENT);
    return taken;
}

/** Lay the maps out in memory; with base NULL only the size counts. */
static size_t lay_out(CodecSignals *signals, uint8_t *base)
{
    const size_t blocks = (size_t)signals->block_width * signals->block_height;
    uint8_t *cursor = base;

    take(&cursor, sizeof(*signals));
    signals->residual_stride = 16 * signals->block_width;
    signals->cell_stride     = 4 * signals->block_width;
    signals->residual        = take(&cursor, blocks * 256 * sizeof(*signals->residual));
    // The lists follow each other at equal distance, so that a consumer can see one array.
    signals->motion[0]       = take(&cursor, 2 * blocks * 16 * sizeof(*signals->motion[0]));
    signals->motion[1]       = signals->motion[0] + blocks * 16;
    signals->distance[0]     = take(&cursor, 2 * blocks * 16 * sizeof(*signals->distance[0]));
    signals->distance[1]     = signals->distance[0] + blocks * 16;
    signals->bits            = take(&cursor, blocks * sizeof(*signals->bits));
    signals->qp              = take(&cursor, blocks);
    signals->state           = take(&cursor, blocks);
    return cursor - base;
}

static void clear_residual(CodecSignals *signals, int block_x, int block_y)
{
    int16_t *row = signals->residual + 16 * (block_y * signals->residual_stride + block_x);
    for (int y = 0; y < 16; y++, row += signals->residual_stride)
        memset(row, 0, 16 * sizeof(*row));
}

int ff_codec_signals_attach(CodecSignalsPool *pool, AVFrame *frame,
                            int width, int height, int bit_depth)
{
    CodecSignals layout = {
        .picture_id   = frame->pts,
        .width        = width,
        .height       = height,
        .block_width  = (width  + 15) / 16,
        .block_height = (height + 15) / 16,
        .bit_depth    = bit_depth,
    };
    AVBufferRef *buffer;

    if (pool->pool && (pool->block_width  != layout.block_width ||
                       pool->block_height != layout.block_height))
        ff_codec_signals_uninit(pool);
    if (!pool->pool) {
        pool->pool = av_buffer_pool_init(lay_out(&layout, (uint8_t *)0) + ALIGNMENT,
                                         av_buffer_allocz);
        if (!pool->pool)
            return AVERROR(ENOMEM);
        pool->block_width  = layout.block_width;
        pool->block_height = layout.block_height;
    }

    buffer = av_buffer_pool_get(pool->pool);
    if (!buffer)
        return AVERROR(ENOMEM);
    lay_out(&layout, buffer->data);
    memcpy(buffer->data, &layout, sizeof(layout));
    // What a former picture left in the residual is cleared block by block on the way, while the
    // block is in the cache anyway.
    for (int i = 0; i < layout.block_width * layout.block_height; i++)
        layout.state[i] &= ~CODEC_SIGNALS_DECODED;

    av_buffer_unref(&frame->opaque_ref);
    frame->opaque_ref = buffer;
    return 0;
}

void ff_codec_signals_uninit(CodecSignalsPool *pool)
{
    av_buffer_pool_uninit(&pool->pool);
}

void ff_codec_signals_begin(CodecSignals *signals, int block_x, int block_y, int side)
{
    const int end_x = FFMIN(block_x + side, signals->block_width);
    const int end_y = FFMIN(block_y + side, signals->block_height);

    for (int y = block_y; y < end_y; y++)
        for (int x = block_x; x < end_x; x++) {
            uint8_t *state = &signals->state[y * signals->block_width + x];
            if (*state & CODEC_SIGNALS_HAS_RESIDUAL)
                clear_residual(signals, x, y);
            *state = CODEC_SIGNALS_DECODED;
        }
}

void ff_codec_signals_touch(CodecSignals *signals, int x, int y, int width, int height)
{
    const int end_x = (x + width  - 1) / 16;
    const int end_y = (y + height - 1) / 16;

    for (int block_y = y / 16; block_y <= end_y; block_y++)
        for (int block_x = x / 16; block_x <= end_x; block_x++)
            signals->state[block_y * signals->block_width + block_x] |= CODEC_SIGNALS_HAS_RESIDUAL;
}

int ff_codec_signals_distance(CodecSignals *signals, const AVFrame *reference)
{
    const CodecSignals *other = ff_codec_signals(reference);
    int64_t distance;

    if (!other || other->picture_id == CODEC_SIGNALS_NO_ID ||
        other->picture_id == signals->picture_id)
        return CODEC_SIGNALS_UNKNOWN;
    distance = other->picture_id - signals->picture_id;
    if (distance < -INT16_MAX || distance > INT16_MAX)
        signals->flags |= CODEC_SIGNALS_FAR_REF;
    return av_clip64(distance, -INT16_MAX, INT16_MAX);
}
