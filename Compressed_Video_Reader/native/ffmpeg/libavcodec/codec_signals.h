/*
 * Codec signals of a picture: motion, residual, bits and quantiser
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

/**
 * @file
 * Motion, residual, bits and quantiser of one picture, in a buffer of their own that
 * AVFrame.opaque_ref holds. The buffer is reference counted, follows the picture through reordering
 * and frame threading, and is written only by the thread that decodes the picture. Nothing here
 * changes the samples or the state of the decoder.
 */

#ifndef AVCODEC_CODEC_SIGNALS_H
#define AVCODEC_CODEC_SIGNALS_H

#include <stddef.h>
#include <stdint.h>

/** Bit of AVCodecContext.export_side_data that asks for signals. */
#define CODEC_SIGNALS_EXPORT (1 << 24)
/** Bit that asks only for flags and references, which show whether a picture is sound: no maps. */
#define CODEC_SIGNALS_TRACE  (1 << 25)

/** The picture is a field pair or has field macroblocks: the maps are empty. */
#define CODEC_SIGNALS_INTERLACED  (1 << 0)
/** A block is predicted from a picture that the decoder never got; it has no vector here. */
#define CODEC_SIGNALS_MISSING_REF (1 << 1)
/** A reference is farther away than 32767 pictures; the distance is clipped. */
#define CODEC_SIGNALS_FAR_REF     (1 << 2)
/** A slice is broken, or its data does not end where its last block does, or a picture is lost. */
#define CODEC_SIGNALS_DAMAGED     (1 << 3)

/** CodecSignals.state of a block: its residual is not all zero. */
#define CODEC_SIGNALS_HAS_RESIDUAL 1
/** CodecSignals.state of a block: it was decoded; otherwise its maps mean nothing. */
#define CODEC_SIGNALS_DECODED      2

/** Different pictures that the slices of one picture may refer to, unknown ones as the first. */
#define CODEC_SIGNALS_MAX_REFS 64

typedef struct CodecSignalsReference {
    int64_t picture_id;
    int16_t distance; ///< pictures from this one to the reference
    uint8_t is_used;  ///< by a block, not only listed
} CodecSignalsReference;

/** Maps count in blocks of 16x16 luma samples, each of 4x4 cells of 4x4 samples. */
typedef struct CodecSignals {
    int64_t picture_id;      ///< AVFrame.pts, chosen by the caller as a place in display order
    int64_t sequence;        ///< place in decoding order, see CodecSignalsSink
    int64_t recovered_from;  ///< sequence of a recovery point that this picture completes, or -1
    int32_t block_width;     ///< blocks that cover the picture before cropping
    int32_t block_height;    ///< rows of blocks
    int32_t block_stride;    ///< blocks from one row to the next
    uint32_t flags;          ///< CODEC_SIGNALS_* above
    int16_t *residual;       ///< luma; NULL without maps; [16 * block_height][16 * block_stride]
    int16_t (*motion[2])[2]; ///< per list [4 * block_height][4 * block_stride], quarter samples
    int16_t *distance[2];    ///< in the layout of motion: pictures to the reference, 0 = none
    float *bits;             ///< [block_height][block_stride]
    uint8_t *qp;             ///< in the layout of bits: QP'Y, with the offset for deep samples
    uint8_t *state;          ///< in the layout of bits: CODEC_SIGNALS_HAS_RESIDUAL, _DECODED
    int8_t is_moving[2];     ///< for the decoder, per list: motion and distance are not all zero
    struct CodecSignalsStage *stage; ///< the decoder's buffer, shared by its pictures
    int32_t num_references;
    CodecSignalsReference references[CODEC_SIGNALS_MAX_REFS];
} CodecSignals;

/** Receives every picture when it is decoded; AVCodecContext.opaque points to it, or is NULL. */
typedef struct CodecSignalsSink {
    int64_t num_started; ///< pictures whose decoding has begun
    int64_t num_before;  ///< pictures among these that were begun before the last flush
    /** Called by the decoding thread when no more of a picture will be decoded. */
    void (*finished)(struct CodecSignalsSink *sink, const CodecSignals *signals);
} CodecSignalsSink;

#endif /* AVCODEC_CODEC_SIGNALS_H */
