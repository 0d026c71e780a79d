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

#ifndef AVCODEC_H264_SIGNALS_H
#define AVCODEC_H264_SIGNALS_H

struct H264Context;
struct H264SliceContext;

/** Find the signals of the picture that a slice belongs to, and its references. */
void ff_h264_signals_slice(const struct H264Context *h, struct H264SliceContext *sl);

/** Before its first macroblock is parsed. */
void ff_h264_signals_begin(const struct H264Context *h, struct H264SliceContext *sl);

/** After a macroblock is reconstructed. */
void ff_h264_signals_end_mb(const struct H264Context *h, struct H264SliceContext *sl);

/** After the last macroblock of a slice, or where broken data ends it. */
void ff_h264_signals_end_slice(const struct H264Context *h, struct H264SliceContext *sl,
                               int is_broken);

/** At a recovery point in the current picture, and where what it promised is there. */
void ff_h264_signals_recovery(struct H264Context *h, int is_complete);

/** Before luma coefficients of a macroblock are used up by reconstruction. */
void ff_h264_signals_residual(const struct H264Context *h, struct H264SliceContext *sl,
                              int mb_type, int is_bypass, int pixel_shift);

#endif /* AVCODEC_H264_SIGNALS_H */
