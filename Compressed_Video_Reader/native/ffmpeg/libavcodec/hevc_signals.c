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

#include <string.h>

#include "libavutil/common.h"

#include "codec_signals_internal.h"
#include "hevc_signals.h"
#include "hevcdec.h"

void ff_hevc_signals_slice(HEVCContext *s)
{
    CodecSignals *signals = s->ref ? ff_codec_signals(s->ref->frame) : NULL;

    s->signals = signals;
    memset(s->signals_distance, 0, sizeof(s->signals_distance));
    if (!signals)
        return;
    if (s->sei.picture_timing.picture_struct == AV_PICTURE_STRUCTURE_TOP_FIELD ||
        s->sei.picture_timing.picture_struct == AV_PICTURE_STRUCTURE_BOTTOM_FIELD)
        signals->flags |= CODEC_SIGNALS_INTERLACED;
    if (s->sh.slice_type == HEVC_SLICE_I || !s->ref->refPicList)
        return;
    for (int list = 0; list < (s->sh.slice_type == HEVC_SLICE_B ? 2 : 1); list++) {
        const RefPicList *references = &s->ref->refPicList[list];

        for (int i = 0; i < references->nb_refs; i++)
            s->signals_distance[list][i] = references->ref[i]
                ? ff_codec_signals_distance(signals, references->ref[i]->frame)
                : CODEC_SIGNALS_UNKNOWN;
    }
}

int64_t ff_hevc_signals_begin_ctu(const HEVCContext *s, int x_ctb, int y_ctb)
{
    CodecSignals *signals = s->signals;
    const int side        = 1 << s->ps.sps->log2_ctb_size;
    const int cells       = FFMIN(side / 4, signals->cell_stride - x_ctb / 4);
    const int end_y       = FFMIN((y_ctb + side) / 4, 4 * signals->block_height);

    ff_codec_signals_begin(signals, x_ctb / 16, y_ctb / 16, side / 16);
    for (int list = 0; list < 2; list++)
        for (int y = y_ctb / 4; y < end_y; y++) {
            const ptrdiff_t cell = y * signals->cell_stride + x_ctb / 4;

            memset(signals->motion[list] + cell, 0, cells * sizeof(*signals->motion[list]));
            memset(signals->distance[list] + cell, 0, cells * sizeof(*signals->distance[list]));
        }
    return ff_codec_signals_cabac_position(&s->HEVClc->cc);
}

void ff_hevc_signals_motion(const HEVCContext *s, int x, int y, int width, int height,
                            const MvField *unit)
{
    CodecSignals *signals = s->signals;

    for (int list = 0; list < 2; list++) {
        const int distance = unit->pred_flag & (PF_L0 << list)
            ? ff_codec_signals_use(signals, s->signals_distance[list][unit->ref_idx[list]]) : 0;
        const ptrdiff_t cell  = y / 4 * signals->cell_stride + x / 4;
        int16_t (*motion)[2]  = signals->motion[list] + cell;
        int16_t *distances    = signals->distance[list] + cell;

        if (!distance)
            continue;
        for (int row = 0; row < height / 4; row++) {
            for (int column = 0; column < width / 4; column++) {
                memcpy(motion[column], &unit->mv[list], sizeof(*motion));
                distances[column] = distance;
            }
            motion    += signals->cell_stride;
            distances += signals->cell_stride;
        }
    }
}

void ff_hevc_signals_end_ctu(const HEVCContext *s, int x_ctb, int y_ctb, int64_t position)
{
    CodecSignals *signals = s->signals;
    const HEVCSPS *sps    = s->ps.sps;
    const int end_x       = FFMIN(x_ctb + (1 << sps->log2_ctb_size), sps->width);
    const int end_y       = FFMIN(y_ctb + (1 << sps->log2_ctb_size), sps->height);
    const float density   = (ff_codec_signals_cabac_position(&s->HEVClc->cc) - position) / 256.0f /
                            ((end_x - x_ctb) * (end_y - y_ctb));

    for (int y = y_ctb; y < end_y; y += 16)
        for (int x = x_ctb; x < end_x; x += 16) {
            const int block = y / 16 * signals->block_width + x / 16;
            const int unit  = (y >> sps->log2_min_cb_size) * sps->min_cb_width +
                              (x >> sps->log2_min_cb_size);

            signals->bits[block] = density * FFMIN(16, end_x - x) * FFMIN(16, end_y - y);
            signals->qp[block]   = s->qp_y_tab[unit] + sps->qp_bd_offset;
        }
}

void ff_hevc_signals_residual(const HEVCContext *s, int x, int y, int side,
                              const int16_t *residual)
{
    CodecSignals *signals = s->signals;
    int16_t *row          = signals->residual + y * signals->residual_stride + x;

    for (int i = 0; i < side; i++) {
        memcpy(row, residual, side * sizeof(*row));
        row      += signals->residual_stride;
        residual += side;
    }
    ff_codec_signals_touch(signals, x, y, side, side);
}
