/*
 * HEVC: motion, residual, bits and quantiser of a picture
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

#ifndef AVCODEC_HEVC_SIGNALS_H
#define AVCODEC_HEVC_SIGNALS_H

#include <stdint.h>

struct HEVCContext;
struct MvField;

/** Before a slice's first coding tree unit: its references. */
void ff_hevc_signals_slice(struct HEVCContext *s);

/** Before a coding tree unit is parsed; returns where it begins, in 1/256 bit. */
int64_t ff_hevc_signals_begin_ctu(const struct HEVCContext *s, int x_ctb, int y_ctb);

/** The motion of one prediction unit, or NULL for an intra coding unit. */
void ff_hevc_signals_motion(const struct HEVCContext *s, int x, int y, int width, int height,
                            const struct MvField *unit);

/** After it is reconstructed. */
void ff_hevc_signals_end_ctu(const struct HEVCContext *s, int x_ctb, int y_ctb, int64_t position);

/** After the last coding tree unit of a slice segment, or where broken data ends it. */
void ff_hevc_signals_end_slice(const struct HEVCContext *s, int is_broken);

/** Before the residual of a luma transform block is added to its prediction. */
void ff_hevc_signals_residual(const struct HEVCContext *s, int x, int y, int side,
                              const int16_t *residual);

#endif /* AVCODEC_HEVC_SIGNALS_H */
