/*
 * Codec signals of a picture: what the decoders share
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

#include <string.h>

#include "libavutil/buffer.h"
#include "libavutil/frame.h"
#include "libavutil/intmath.h"
#include "libavutil/mem_internal.h"

#include "avcodec.h"
#include "cabac.h"
#include "codec_signals.h"
#include "get_bits.h"

#define CODEC_SIGNALS_STAGE_ROWS 4 ///< as many as the largest coding tree unit has

typedef int16_t CodecSignalsTile[16][16];

/** Further bits of CodecSignals.state: the rows of cells that hold a residual. */
#define CODEC_SIGNALS_ROW(i) (1 << 4 << (i))
#define CODEC_SIGNALS_ROWS   (15 << 4)

/** The motion of a block in one list, where its cells differ. */
typedef struct CodecSignalsSplit {
    DECLARE_ALIGNED(16, int16_t, motion)[4][4][2];
    int16_t distance[4][4];
} CodecSignalsSplit;

/**
 * The decoder writes here first; the stage is small enough for the second-level cache. The maps are
 * then written row by row, in whole cache lines that bypass the caches, so that they do not evict
 * the pictures that the decoder needs there.
 */
typedef struct CodecSignalsStage {
    uint64_t *uniform[2];    ///< per list, like CodecSignals.state: CODEC_SIGNALS_UNIFORM or _SPLIT
    CodecSignalsSplit *splits[2]; ///< in the layout of uniform: blocks that are _SPLIT
    CodecSignalsTile *tiles; ///< [CODEC_SIGNALS_STAGE_ROWS][block_stride], residual
    uint8_t *state;          ///< in the layout of tiles: CodecSignals.state
    int y, height;           ///< rows of blocks that tiles and state hold at the moment
} CodecSignalsStage;

/** Kinds of pictures with a buffer pool each, so that fewer reused maps have to be cleared. */
typedef enum CodecSignalsKind {
    CODEC_SIGNALS_WITHOUT_MAPS,
    CODEC_SIGNALS_ONE_LIST,
    CODEC_SIGNALS_TWO_LISTS,
} CodecSignalsKind;

/** State that a decoder keeps between pictures. */
typedef struct CodecSignalsPool {
    AVBufferPool *pools[3]; ///< CodecSignalsKind
    int block_width, block_height;
    void *stage_memory;
    CodecSignalsStage stage; ///< within stage_memory
    int64_t recovery_start;   ///< sequence of the picture with the recovery point in force, or -1
} CodecSignalsPool;

/** The motion of a block in one list, where all its cells have the same. */
#define CODEC_SIGNALS_UNIFORM(vector, distance) ((uint64_t)(uint16_t)(distance) << 32 | (vector))

/** Its cells differ; they are in CodecSignalsStage.splits. */
#define CODEC_SIGNALS_SPLIT (UINT64_C(1) << 63)

/**
 * Attach signals to the frame, whose pts must be set. frame->opaque_ref leaves the decoder with the
 * picture; the decoder writes through *buffer and releases it when the picture is decoded. Frames
 * kept as references hold no signals, so that few buffers exist at any time.
 * @param is_bidirectional whether the picture seems to use both lists
 */
int ff_codec_signals_attach(AVCodecContext *avctx, CodecSignalsPool *pool, AVFrame *frame,
                            AVBufferRef **buffer, int width, int height, int is_bidirectional);

/** No more of the picture will be decoded: write its maps and release the buffer. */
void ff_codec_signals_finish(AVCodecContext *avctx, AVBufferRef **buffer);

/**
 * Remove the signals of a picture that the decoder generates in place of a lost one. frame->opaque
 * then marks damage, unless the picture was lost before decoding began, which is no damage.
 */
void ff_codec_signals_disown(AVCodecContext *avctx, AVFrame *frame, AVBufferRef **buffer);

void ff_codec_signals_uninit(CodecSignalsPool *pool);

static inline CodecSignals *ff_codec_signals(const AVBufferRef *buffer)
{
    return buffer ? (CodecSignals *)buffer->data : NULL;
}

/** Write the residual of the stage to the map, and empty it. */
void ff_codec_signals_flush(CodecSignals *signals);

/** Move the stage to rows of blocks. */
static inline void ff_codec_signals_stage(CodecSignals *signals, int y, int height)
{
    CodecSignalsStage *stage = signals->stage;

    if (stage->y == y && stage->height == height)
        return;
    ff_codec_signals_flush(signals);
    stage->y      = y;
    stage->height = height;
}

/** Clear rows of cells of a tile; which: bits of CODEC_SIGNALS_ROWS. */
static inline void ff_codec_signals_clear(CodecSignalsTile *tile, int rows)
{
    for (int i = 0; i < 4; i++)
        if (rows & CODEC_SIGNALS_ROW(i))
            for (int k = 0; k < 4; k++)
                // Not memset(), which costs more than this little.
                memcpy((*tile)[4 * i + k], (const int16_t[16]) { 0 }, sizeof(**tile));
}

/** Where the motion of a block's cells is written. */
static inline CodecSignalsSplit *ff_codec_signals_split(CodecSignalsStage *stage, int list,
                                                        int block)
{
    CodecSignalsSplit *split = &stage->splits[list][block];

    if (stage->uniform[list][block] != CODEC_SIGNALS_SPLIT)
        memset(split, 0, sizeof(*split));
    stage->uniform[list][block] = CODEC_SIGNALS_SPLIT;
    return split;
}

/**
 * Return the place in CodecSignals.references of a picture that a slice lists; 0 for a lost one,
 * where reference is NULL or was generated. Lost pictures in a list do no harm (decoding may begin
 * in the middle of a stream) until a block uses one.
 */
int ff_codec_signals_reference(CodecSignals *signals, const AVFrame *reference);

/** The distance to store for a block that uses a reference; 0 for one that is lost. */
static inline int ff_codec_signals_use(CodecSignals *signals, int place)
{
    signals->references[place].is_used = 1;
    return signals->references[place].distance;
}

/**
 * Mark a picture as damaged if a slice ended with more data left than an encoder may pad. Of 16 or
 * more bits_left, 16 are in the register of the arithmetic decoder.
 */
static inline void ff_codec_signals_check_end(CodecSignals *signals, int64_t bits_left, int filled)
{
    if (bits_left < 0 || (bits_left >= 16 ? bits_left - 16 : bits_left) > filled)
        signals->flags |= CODEC_SIGNALS_DAMAGED;
}

/** Return the bits between the end of the arithmetic code and the end of the data. */
static inline int64_t ff_codec_signals_cabac_left(const CABACContext *cabac,
                                                  const GetBitContext *data)
{
    const int64_t bytes = (intptr_t)data->buffer - (intptr_t)cabac->bytestream;

    // The register holds 16 bits in advance, and the stop bit.
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
