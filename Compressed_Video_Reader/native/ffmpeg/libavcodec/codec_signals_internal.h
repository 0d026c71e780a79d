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

#ifndef AVCODEC_CODEC_SIGNALS_INTERNAL_H
#define AVCODEC_CODEC_SIGNALS_INTERNAL_H

#include "libavutil/buffer.h"
#include "libavutil/frame.h"
#include "libavutil/intmath.h"

#include "cabac.h"
#include "codec_signals.h"

typedef struct CodecSignalsPool {
    AVBufferPool *pool;
    int block_width, block_height;
} CodecSignalsPool;

/** Hang cleared signals at the frame, which has its pts already. */
int ff_codec_signals_attach(CodecSignalsPool *pool, AVFrame *frame,
                            int width, int height, int bit_depth);

void ff_codec_signals_uninit(CodecSignalsPool *pool);

static inline CodecSignals *ff_codec_signals(const AVFrame *frame)
{
    return frame && frame->opaque_ref ? (CodecSignals *)frame->opaque_ref->data : NULL;
}

/** Before blocks are decoded: clear what a former picture left in their residual. */
void ff_codec_signals_begin(CodecSignals *signals, int block_x, int block_y, int side);

/** Note that samples x..x+size, y..y+height of the residual are written. */
void ff_codec_signals_touch(CodecSignals *signals, int x, int y, int width, int height);

/** Distance of a reference that the decoder made up in place of a lost one. */
#define CODEC_SIGNALS_UNKNOWN INT16_MIN

/** Pictures from the frame to its reference in display order, or CODEC_SIGNALS_UNKNOWN. */
int ff_codec_signals_distance(CodecSignals *signals, const AVFrame *reference);

/**
 * The distance to store for a block that uses a reference. References that are listed but lost
 * do no harm (decoding may begin in the middle of a stream) until a block uses one.
 */
static inline int ff_codec_signals_use(CodecSignals *signals, int distance)
{
    if (distance != CODEC_SIGNALS_UNKNOWN)
        return distance;
    signals->flags |= CODEC_SIGNALS_MISSING_REF;
    return 0;
}

extern const uint8_t ff_codec_signals_log2[256];

/**
 * Bits that the arithmetic decoder has consumed, in 1/256 bit, up to a constant: the bytes read,
 * less what waits in the low register, and the fraction of a bit by which the range has shrunk.
 */
static inline int64_t ff_codec_signals_cabac_position(const CABACContext *cabac)
{
    const int64_t bits = 8 * (int64_t)(intptr_t)cabac->bytestream +
                         ff_ctz(cabac->low | (1 << CABAC_BITS));
    return 256 * bits - ff_codec_signals_log2[cabac->range & 255];
}

#endif /* AVCODEC_CODEC_SIGNALS_INTERNAL_H */
