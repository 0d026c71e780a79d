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
#include "libavutil/intreadwrite.h"

#include "codec_signals_internal.h"
#include "hevc_signals.h"
#include "hevcdec.h"

void ff_hevc_signals_slice(HEVCContext *s)
{
    CodecSignals *signals = s->ref ? ff_codec_signals(s->signals_buffer) : NULL;

    s->signals = signals;
    memset(s->signals_reference, 0, sizeof(s->signals_reference));
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
            s->signals_reference[list][i] = ff_codec_signals_reference(
                signals, references->ref[i] ? references->ref[i]->frame : NULL);
    }
}

int64_t ff_hevc_signals_begin_ctu(const HEVCContext *s, int x_ctb, int y_ctb)
{
    CodecSignalsStage *stage = s->signals->stage;
    const int side           = 1 << s->ps.sps->log2_ctb_size >> 4;

    if (!s->signals->residual)
        return 0;
    ff_codec_signals_stage(s->signals, y_ctb / 16, side);
    // Clear what a broken stream left here by sending the unit twice.
    for (int y = 0; y < side; y++)
        memset(stage->state + y * s->signals->block_stride + x_ctb / 16, 0,
               FFMIN(side, s->signals->block_stride - x_ctb / 16));
    return ff_codec_signals_cabac_position(&s->HEVClc->cc);
}

/** Fill memory with the 8 bytes of a value; bytes is even. */
static av_always_inline void fill(uint8_t *to, uint64_t value, int bytes)
{
    for (; bytes >= 16; bytes -= 16, to += 16) {
        AV_WN64(to, value);
        AV_WN64(to + 8, value);
    }
    if (bytes & 8) {
        AV_WN64(to, value);
        to += 8;
    }
    if (bytes & 4) {
        AV_WN32(to, value);
        to += 4;
    }
    if (bytes & 2)
        AV_WN16(to, value);
}

/** Find the part of a unit within block (x, y), in cells. Returns 1 if it is the whole block. */
static int part_of(int x, int y, int unit[4], int part[4])
{
    part[0] = FFMAX(4 * x, unit[0]);
    part[1] = FFMAX(4 * y, unit[1]);
    part[2] = FFMIN(4 * x + 4, unit[2]);
    part[3] = FFMIN(4 * y + 4, unit[3]);
    return part[2] - part[0] == 4 && part[3] - part[1] == 4;
}

static void fill_list(CodecSignals *signals, int list, int unit[4], uint64_t uniform)
{
    CodecSignalsStage *stage = signals->stage;
    const uint64_t vectors   = (uint32_t)uniform * UINT64_C(0x100000001);
    const uint64_t distances = (uniform >> 32) * UINT64_C(0x1000100010001);
    int part[4];

    for (int y = unit[1] / 4; 4 * y < unit[3]; y++)
        for (int x = unit[0] / 4; 4 * x < unit[2]; x++) {
            const int block = y * signals->block_stride + x;
            CodecSignalsSplit *split;

            if (part_of(x, y, unit, part)) {
                stage->uniform[list][block] = uniform;
                continue;
            }
            split = ff_codec_signals_split(stage, list, block);
            for (int row = part[1]; row < part[3]; row++) {
                fill((uint8_t *)split->motion[row % 4][part[0] % 4], vectors,
                     4 * (part[2] - part[0]));
                fill((uint8_t *)&split->distance[row % 4][part[0] % 4], distances,
                     2 * (part[2] - part[0]));
            }
        }
}

void ff_hevc_signals_motion(const HEVCContext *s, int x, int y, int width, int height,
                            const MvField *unit)
{
    int cells[4] = { x / 4, y / 4, (x + width) / 4, (y + height) / 4 };

    for (int list = 0; list < 2; list++) {
        const int distance = unit && unit->pred_flag & (PF_L0 << list)
            ? ff_codec_signals_use(s->signals, s->signals_reference[list][unit->ref_idx[list]]) : 0;

        if (s->signals->residual)
            fill_list(s->signals, list, cells, distance
                ? CODEC_SIGNALS_UNIFORM(AV_RN32(&unit->mv[list]), distance) : 0);
    }
}

void ff_hevc_signals_end_ctu(const HEVCContext *s, int x_ctb, int y_ctb, int64_t position)
{
    CodecSignals *signals    = s->signals;
    CodecSignalsStage *stage = signals->stage;
    const HEVCSPS *sps       = s->ps.sps;
    const int end_x          = FFMIN(x_ctb + (1 << sps->log2_ctb_size), sps->width);
    const int end_y          = FFMIN(y_ctb + (1 << sps->log2_ctb_size), sps->height);
    const int64_t spent      = ff_codec_signals_cabac_position(&s->HEVClc->cc) - position;
    const float density      = spent / 256.0f / ((end_x - x_ctb) * (end_y - y_ctb));

    if (!signals->residual) {
        for (int y = y_ctb / 16; 16 * y < end_y; y++)
            for (int x = x_ctb / 16; 16 * x < end_x; x++)
                signals->state[y * signals->block_stride + x] = CODEC_SIGNALS_DECODED;
        return;
    }
    for (int y = y_ctb; y < end_y; y += 16)
        for (int x = x_ctb; x < end_x; x += 16) {
            const int block = y / 16 * signals->block_stride + x / 16;
            const int unit  = (y >> sps->log2_min_cb_size) * sps->min_cb_width +
                              (x >> sps->log2_min_cb_size);

            signals->bits[block] = density * FFMIN(16, end_x - x) * FFMIN(16, end_y - y);
            signals->qp[block]   = s->qp_y_tab[unit] + sps->qp_bd_offset;
            stage->state[block - stage->y * signals->block_stride] |= CODEC_SIGNALS_DECODED;
        }
}

void ff_hevc_signals_end_slice(const HEVCContext *s, int is_broken)
{
    if (is_broken)
        s->signals->flags |= CODEC_SIGNALS_DAMAGED;
    else
        ff_codec_signals_check_end(s->signals,
                                   ff_codec_signals_cabac_left(&s->HEVClc->cc, &s->HEVClc->gb), 0);
}

/** Return the state bits of the rows of cells that contain samples. */
static int rows_of(int top, int height)
{
    int rows = 0;

    for (int row = top / 4; row < (top + height) / 4; row++)
        rows |= CODEC_SIGNALS_ROW(row);
    return rows;
}

/** Copy a square, whose side is a multiple of 4, to a tile. */
static av_always_inline void copy(int16_t *to, const int16_t *from, int stride, int width)
{
    for (int row = 0; row < width; row++, to += 16, from += stride) {
        if (width == 4)
            memcpy(to, from, 4 * sizeof(*to));
        else
            for (int i = 0; i < width; i += 8)
                memcpy(to + i, from + i, 8 * sizeof(*to));
    }
}

void ff_hevc_signals_residual(const HEVCContext *s, int x, int y, int side,
                              const int16_t *residual)
{
    CodecSignalsStage *stage = s->signals->stage;
    const int width          = FFMIN(side, 16);

    if (!s->signals->residual)
        return;
    y -= 16 * stage->y;
    // Transform blocks have sides of 4, 8, 16 and 32: parts of a block, or several whole ones.
    for (int top = 0; top < side; top += width)
        for (int left = 0; left < side; left += width) {
            const int block = (y + top) / 16 * s->signals->block_stride + (x + left) / 16;
            const int rows  = rows_of((y + top) % 16, width);

            if (width < 16)
                ff_codec_signals_clear(&stage->tiles[block], rows & ~stage->state[block]);
            stage->state[block] |= CODEC_SIGNALS_HAS_RESIDUAL | rows;
            copy(stage->tiles[block][(y + top) % 16] + (x + left) % 16,
                 residual + top * side + left, side, width);
        }
}
