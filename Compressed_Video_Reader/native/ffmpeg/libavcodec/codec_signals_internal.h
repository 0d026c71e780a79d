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
#include "libavutil/mem_internal.h"

#include "avcodec.h"
#include "cabac.h"
#include "codec_signals.h"
#include "get_bits.h"

#define CODEC_SIGNALS_STAGE_WIDTH  128
#define CODEC_SIGNALS_STAGE_HEIGHT 64
#define CODEC_SIGNALS_STAGE_BLOCKS 16
#define CODEC_SIGNALS_STAGE_CELLS  (CODEC_SIGNALS_STAGE_WIDTH / 4)

/**
 * The area that is decoded at the moment: 8x1 macroblocks, or one coding tree unit. It fits into
 * the first-level cache, and leaves for the maps in whole cache lines past the caches, so that the
 * maps do not crowd out the pictures that the decoder needs there.
 */
typedef struct CodecSignalsStage {
    DECLARE_ALIGNED(64, int16_t, residual)[CODEC_SIGNALS_STAGE_HEIGHT][CODEC_SIGNALS_STAGE_WIDTH];
    DECLARE_ALIGNED(64, int16_t, motion)[2][CODEC_SIGNALS_STAGE_HEIGHT / 4]
                                        [CODEC_SIGNALS_STAGE_CELLS][2];
    DECLARE_ALIGNED(64, int16_t, distance)[2][CODEC_SIGNALS_STAGE_HEIGHT / 4]
                                          [CODEC_SIGNALS_STAGE_CELLS];
    uint64_t uniform[2][CODEC_SIGNALS_STAGE_BLOCKS]; ///< per list, as CodecSignals.uniform
    int x, y, width, height; ///< in blocks; the area begins on a multiple of its size
    uint8_t state[CODEC_SIGNALS_STAGE_BLOCKS]; ///< CodecSignals.state, [height][width]
} CodecSignalsStage;

/** What a decoder keeps from picture to picture. */
typedef struct CodecSignalsPool {
    AVBufferPool *pools[2]; ///< without and with maps
    int block_width, block_height;
    void *stage_memory;
    CodecSignalsStage *stage; ///< within stage_memory, aligned
    int64_t recovery_start;   ///< sequence of the picture with the recovery point in force, or -1
} CodecSignalsPool;

/** The motion of a block in one list, where all its cells have the same. */
#define CODEC_SIGNALS_UNIFORM(vector, distance) ((uint64_t)(uint16_t)(distance) << 32 | (vector))

/** Stands for cells that differ. */
#define CODEC_SIGNALS_SPLIT UINT64_MAX

/**
 * Hang signals at the frame, which has its pts already, and keep a reference to write through:
 * frame->opaque_ref goes out with the picture, *buffer is released when it is decoded. References
 * do not hold signals, so that few buffers are on their way at any time.
 */
int ff_codec_signals_attach(AVCodecContext *avctx, CodecSignalsPool *pool, AVFrame *frame,
                            AVBufferRef **buffer, int width, int height);

/** The picture is decoded, as far as it will be: write out the stage and let go of the buffer. */
void ff_codec_signals_finish(AVCodecContext *avctx, AVBufferRef **buffer);

/**
 * The picture is one that the decoder makes up in place of a lost one. frame->opaque is then set
 * unless it was lost before decoding began, which is no damage.
 */
void ff_codec_signals_disown(AVCodecContext *avctx, AVFrame *frame, AVBufferRef **buffer);

void ff_codec_signals_uninit(CodecSignalsPool *pool);

static inline CodecSignals *ff_codec_signals(const AVBufferRef *buffer)
{
    return buffer ? (CodecSignals *)buffer->data : NULL;
}

/** Write out the stage unless it stands at the given blocks already, and move it there. */
void ff_codec_signals_stage(CodecSignals *signals, int x, int y, int width, int height);

/** Write decoded blocks of the stage to the maps, and empty it. */
void ff_codec_signals_flush(CodecSignals *signals);

/**
 * The place in CodecSignals.references of a picture that a slice lists; 0 for one that is lost,
 * where reference is NULL or was made up. Those that are listed but lost do no harm (decoding may
 * begin in the middle of a stream) until a block uses one.
 */
int ff_codec_signals_reference(CodecSignals *signals, const AVFrame *reference);

/** The distance to store for a block that uses a reference; 0 for one that is lost. */
static inline int ff_codec_signals_use(CodecSignals *signals, int place)
{
    signals->references[place].is_used = 1;
    return signals->references[place].distance;
}

/**
 * A slice is decoded, and bits_left of its data were not: damaged, unless these are at most the
 * ones that an encoder may fill up. What is beyond 16 waits in the arithmetic decoder to be read.
 */
static inline void ff_codec_signals_check_end(CodecSignals *signals, int64_t bits_left, int filled)
{
    if (bits_left < 0 || (bits_left >= 16 ? bits_left - 16 : bits_left) > filled)
        signals->flags |= CODEC_SIGNALS_DAMAGED;
}

/** Bits between where the arithmetic decoder has come to its end and the end of the data. */
static inline int64_t ff_codec_signals_cabac_left(const CABACContext *cabac,
                                                  const GetBitContext *data)
{
    const int64_t bytes = (intptr_t)data->buffer - (intptr_t)cabac->bytestream;

    // It holds 16 bits more than it needs, and the stop bit besides.
    return 8 * bytes + data->size_in_bits + 17 - ff_ctz(cabac->low | (1 << CABAC_BITS));
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
