/*
 * Distances of cells between slots, the source shifted: the innermost loop of rate_distortion.
 *
 * least_distances() gives what cv_reader.select.rate_distortion.distances computes with numpy, bit
 * for bit: sums of squared differences of 8-bit samples are whole numbers. (a - b)^2 is taken apart
 * to a^2 + b^2 - 2ab; AVX-512 VNNI multiplies 64 samples of 8 bits at a time. Where the processor
 * has no such instruction the module says so (IS_FAST is false), and numpy does the work.
 * SPDX-License-Identifier: Apache-2.0
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_KERNEL 1
#include <immintrin.h>
#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))
#else
#define HAS_KERNEL 0
#define FAST
#endif

/* Samples along a side of a cell, and how much a colour difference counts; as in clip.py. */
#define LUMA 8
#define CHROMA 4
#define CHROMA_SHIFT 2 /* Counts four times. */
#define PLANES 2
#define CENTRE 128

#define LANES 16        /* Targets that are compared at the same time. */
#define MAX_FOLLOW 7    /* Samples of luma. */
#define MAX_SHIFTS ((2 * MAX_FOLLOW + 1) * (2 * MAX_FOLLOW + 1))
#define LUMA_PATCH (LUMA + 2 * MAX_FOLLOW)
#define CHROMA_PATCH (CHROMA + 2 * (MAX_FOLLOW / 2))
#define PITCH 32        /* Samples from one row of a patch to the next. */
#define MAX_GROUPS 24   /* Groups of four samples of a whole cell: 16 of luma, 4 of each colour. */
#define QUARTERS 4
#define BOTH 3          /* Value of parts: the quarters of a cell, and the cell. */

typedef struct {
    const uint8_t *luma, *chroma;      /* (T, height, width), (T, 2, height / 2, width / 2) */
    const int32_t *sources;            /* (columns, num_sources) slots */
    Py_ssize_t height, width;          /* samples of luma */
    Py_ssize_t num_columns, num_sources, num_targets;
    Py_ssize_t row, first_column;      /* cells */
    int parts, num_shifts, follow;
    int8_t shifts[MAX_SHIFTS][2];      /* down, right; none first */
    double still;
    float *out;                        /* (columns * units, num_sources, num_targets) */
} Task;

/* Return how many units of a cell are compared. */
static int units_of(int parts)
{
    return parts == BOTH ? QUARTERS + 1 : parts * parts;
}

#if HAS_KERNEL

/*
 * A cell of one slot with what is around it, less 128; the same samples of colours as groups of four
 * (a row, or two samples of two rows), and the sums of squares of the unit that begins at each place.
 */
typedef struct {
    uint8_t luma[LUMA_PATCH][PITCH], chroma[PLANES][CHROMA_PATCH][PITCH];
    uint32_t colours[PLANES][CHROMA_PATCH][PITCH];
    int32_t luma_squares[LUMA_PATCH][PITCH], chroma_squares[CHROMA_PATCH][PITCH];
} Patch;

/* What the units of all target slots hold, 16 slots side by side. */
typedef struct {
    __m512i samples[MAX_GROUPS];
    int32_t constant[LANES];
} Tile;

/* Where a unit is in a patch, moved by each shift: numbers of samples. */
typedef struct {
    int luma[MAX_SHIFTS], chroma[MAX_SHIFTS];
} Places;

static inline Py_ssize_t clamp(Py_ssize_t value, Py_ssize_t last)
{
    return value < 0 ? 0 : value > last ? last : value;
}

static void cut_plane(const uint8_t *plane, Py_ssize_t height, Py_ssize_t width, Py_ssize_t top,
                      Py_ssize_t left, int size, uint8_t (*out)[PITCH])
{
    /* A whole row of the patch is copied at once where there is so much. */
    int is_inside = left >= 0 && left + PITCH <= width;

    for (int y = 0; y < size; y++) {
        const uint8_t *from = plane + clamp(top + y, height - 1) * width;

        if (is_inside)
            memcpy(out[y], from + left, PITCH);
        else
            for (int x = 0; x < size; x++)
                out[y][x] = from[clamp(left + x, width - 1)];
    }
}

static void cut_patch(const Task *task, Py_ssize_t slot, Py_ssize_t column, Patch *patch)
{
    int border = task->follow, half = task->follow / 2;
    Py_ssize_t height = task->height / 2, width = task->width / 2;

    cut_plane(task->luma + slot * task->height * task->width, task->height, task->width,
              task->row * LUMA - border, column * LUMA - border, LUMA + 2 * border, patch->luma);
    for (int plane = 0; plane < PLANES; plane++)
        cut_plane(task->chroma + (slot * PLANES + plane) * height * width, height, width,
                  task->row * CHROMA - half, column * CHROMA - half, CHROMA + 2 * half,
                  patch->chroma[plane]);
}

/* Replace squares by their sums over the next `box` rows and columns. */
FAST static void sum_boxes(int32_t (*squares)[PITCH], int size, int box)
{
    for (int y = 0; y < size; y++)
        for (int step = 1; step < box; step *= 2)
            for (int x = 0; x < PITCH - LUMA; x++)
                squares[y][x] += squares[y][x + step];
    for (int step = 1; step < box; step *= 2)
        for (int y = 0; y + step < size; y++)
            for (int x = 0; x < PITCH - LUMA; x++)
                squares[y][x] += squares[y + step][x];
}

FAST static void prepare(Patch *patch, int parts, int follow)
{
    int size = LUMA + 2 * follow, colour_size = CHROMA + 2 * (follow / 2);

    for (int y = 0; y < size; y++)
        for (int x = 0; x < PITCH; x++) {
            patch->luma_squares[y][x] = patch->luma[y][x] * patch->luma[y][x];
            patch->luma[y][x] ^= CENTRE;
        }
    for (int y = 0; y < colour_size; y++)
        for (int x = 0; x < PITCH; x++) {
            patch->chroma_squares[y][x] = (patch->chroma[0][y][x] * patch->chroma[0][y][x] +
                                           patch->chroma[1][y][x] * patch->chroma[1][y][x])
                                          << CHROMA_SHIFT;
            patch->chroma[0][y][x] ^= CENTRE;
            patch->chroma[1][y][x] ^= CENTRE;
        }
    sum_boxes(patch->luma_squares, size, LUMA / parts);
    sum_boxes(patch->chroma_squares, colour_size, CHROMA / parts);
    for (int plane = 0; plane < PLANES; plane++)
        for (int y = 0; y + (parts == 2) < colour_size; y++)
            for (int x = 0; x < colour_size; x++) {
                const uint8_t *from = &patch->chroma[plane][y][x];

                memcpy(&patch->colours[plane][y][x], from, 2);
                memcpy((uint8_t *)&patch->colours[plane][y][x] + 2,
                       parts == 2 ? from + PITCH : from + 2, 2);
            }
}

static void find_places(const Task *task, int part, int parts, Places *places)
{
    int row = part / parts, column = part % parts, border = task->follow, half = task->follow / 2;

    for (int number = 0; number < task->num_shifts; number++) {
        int down = task->shifts[number][0], right = task->shifts[number][1];

        places->luma[number] = (border + row * (LUMA / parts) + down) * PITCH + border +
                               column * (LUMA / parts) + right;
        /* Half a sample is rounded towards 0, as in C. */
        places->chroma[number] = (half + row * (CHROMA / parts) + down / 2) * PITCH + half +
                                 column * (CHROMA / parts) + right / 2;
    }
}

/* Return a group of four samples of a unit: those of luma come first, row by row, then colours. */
static inline uint32_t group_of(const Patch *patch, int luma, int chroma, int group, int parts)
{
    int num_luma = 2 * MAX_GROUPS / 3 / (parts * parts), in_row = LUMA / parts / 4;
    int in_plane = parts == 2 ? 1 : CHROMA;
    uint32_t found;

    if (group < num_luma) {
        memcpy(&found, &patch->luma[0][0] + luma + group / in_row * PITCH + group % in_row * 4, 4);
        return found;
    }
    group -= num_luma;
    return (&patch->colours[group / in_plane][0][0])[chroma + group % in_plane * PITCH];
}

static void fill_tiles(const Task *task, const Patch *patches, const Places *places, int parts,
                       Tile *tiles)
{
    int num_groups = MAX_GROUPS / (parts * parts), num_luma = num_groups * 2 / 3;
    int luma = places->luma[0], chroma = places->chroma[0];

    for (Py_ssize_t target = 0; target < task->num_targets; target++) {
        const Patch *patch = patches + task->num_sources - task->num_targets + target;
        Tile *tile = tiles + target / LANES;
        int32_t sum = 0;

        for (int group = 0; group < num_groups; group++) {
            uint32_t found = group_of(patch, luma, chroma, group, parts) ^ CENTRE * 0x01010101u;
            int counts = group < num_luma ? 1 : 1 << CHROMA_SHIFT;

            ((uint32_t *)&tile->samples[group])[target % LANES] = found;
            sum += counts * ((found & 255) + (found >> 8 & 255) + (found >> 16 & 255) + (found >> 24));
        }
        /* Sources are multiplied less 128: that is given back here. */
        tile->constant[target % LANES] = (&patch->luma_squares[0][0])[luma] +
                                         (&patch->chroma_squares[0][0])[chroma] - 2 * CENTRE * sum;
    }
}

/* Write the least distances of one source over some shifts; return the greatest of them. */
FAST static inline int32_t compare(const Patch *patch, const Places *places, int num_shifts,
                                   const Tile *tiles, Py_ssize_t num_targets, float *out, int parts)
{
    const int num_groups = MAX_GROUPS / (parts * parts), num_luma = num_groups * 2 / 3;
    __m512i greatest = _mm512_setzero_si512();

    for (Py_ssize_t first = 0; first < num_targets; first += LANES, tiles++) {
        __mmask16 mask = num_targets - first < LANES ? (1u << (num_targets - first)) - 1 : 0xffff;
        __m512i there[MAX_GROUPS], best = _mm512_set1_epi32(INT32_MIN), least;

        for (int group = 0; group < num_groups; group++)
            there[group] = tiles->samples[group];
        for (int number = 0; number < num_shifts; number++) {
            int luma = places->luma[number], chroma = places->chroma[number];
            int squares = (&patch->luma_squares[0][0])[luma] + (&patch->chroma_squares[0][0])[chroma];
            __m512i both = _mm512_setzero_si512();

            for (int group = num_luma; group < num_groups; group++)
                both = _mm512_dpbusd_epi32(
                    both, there[group],
                    _mm512_set1_epi32(group_of(patch, luma, chroma, group, parts)));
            both = _mm512_slli_epi32(both, CHROMA_SHIFT);
            for (int group = 0; group < num_luma; group++)
                both = _mm512_dpbusd_epi32(
                    both, there[group],
                    _mm512_set1_epi32(group_of(patch, luma, chroma, group, parts)));
            both = _mm512_slli_epi32(both, 1);
            best = _mm512_max_epi32(best, _mm512_sub_epi32(both, _mm512_set1_epi32(squares)));
        }
        least = _mm512_sub_epi32(_mm512_loadu_si512(tiles->constant), best);
        greatest = _mm512_mask_max_epi32(greatest, mask, greatest, least);
        _mm512_mask_storeu_ps(out + first, mask, _mm512_cvtepi32_ps(least));
    }
    return _mm512_reduce_max_epi32(greatest);
}

FAST static inline void run_unit(const Task *task, const Patch *patches, int part, int parts,
                                 Tile *tiles, float *out)
{
    int32_t greatest = 0;
    Places places;

    find_places(task, part, parts, &places);
    fill_tiles(task, patches, &places, parts, tiles);
    for (int is_last = 0; is_last < 2; is_last++) {
        for (Py_ssize_t source = 0; source < task->num_sources; source++) {
            int32_t found = compare(patches + source, &places, is_last ? task->num_shifts : 1, tiles,
                                    task->num_targets, out + source * task->num_targets, parts);

            greatest = found > greatest ? found : greatest;
        }
        if (task->num_shifts == 1 || greatest <= task->still)
            break;
    }
}

FAST static void run_quarters(const Task *task, const Patch *patches, int part, Tile *tiles,
                              float *out)
{
    run_unit(task, patches, part, 2, tiles, out);
}

FAST static void run_cell(const Task *task, const Patch *patches, Tile *tiles, float *out)
{
    run_unit(task, patches, 0, 1, tiles, out);
}

/*
 * Write the least distances of one source over some shifts, of the four quarters and of the cell, whose
 * quarters are shifted alike; only of the units in `written`. Note the greatest of each.
 */
FAST static void compare_both(const Patch *patch, const Places *places, int num_shifts,
                              const Tile *tiles, const Task *task, float *const *out,
                              const int *written, __m512i *greatest)
{
    const int num_groups = MAX_GROUPS / QUARTERS, num_luma = num_groups * 2 / 3;
    Py_ssize_t num_targets = task->num_targets, num_tiles = (num_targets + LANES - 1) / LANES;

    for (Py_ssize_t first = 0; first < num_targets; first += LANES, tiles++) {
        __mmask16 mask = num_targets - first < LANES ? (1u << (num_targets - first)) - 1 : 0xffff;
        __m512i best[QUARTERS + 1], constant[QUARTERS + 1];

        constant[QUARTERS] = _mm512_setzero_si512();
        for (int unit = 0; unit <= QUARTERS; unit++)
            best[unit] = _mm512_set1_epi32(INT32_MIN);
        for (int part = 0; part < QUARTERS; part++) {
            constant[part]     = _mm512_loadu_si512(tiles[part * num_tiles].constant);
            constant[QUARTERS] = _mm512_add_epi32(constant[QUARTERS], constant[part]);
        }
        for (int number = 0; number < num_shifts; number++) {
            __m512i sum = _mm512_setzero_si512();

            for (int part = 0; part < QUARTERS; part++) {
                const __m512i *there = tiles[part * num_tiles].samples;
                int luma = places[part].luma[number], chroma = places[part].chroma[number];
                int squares = (&patch->luma_squares[0][0])[luma] +
                              (&patch->chroma_squares[0][0])[chroma];
                __m512i both = _mm512_setzero_si512();

                for (int group = num_luma; group < num_groups; group++)
                    both = _mm512_dpbusd_epi32(
                        both, there[group],
                        _mm512_set1_epi32(group_of(patch, luma, chroma, group, 2)));
                both = _mm512_slli_epi32(both, CHROMA_SHIFT);
                for (int group = 0; group < num_luma; group++)
                    both = _mm512_dpbusd_epi32(
                        both, there[group],
                        _mm512_set1_epi32(group_of(patch, luma, chroma, group, 2)));
                both = _mm512_sub_epi32(_mm512_slli_epi32(both, 1), _mm512_set1_epi32(squares));
                best[part] = _mm512_max_epi32(best[part], both);
                sum        = _mm512_add_epi32(sum, both);
            }
            best[QUARTERS] = _mm512_max_epi32(best[QUARTERS], sum);
        }
        for (int unit = 0; unit <= QUARTERS; unit++) {
            __m512i least = _mm512_sub_epi32(constant[unit], best[unit]);

            greatest[unit] = _mm512_mask_max_epi32(greatest[unit], mask, greatest[unit], least);
            if (written[unit])
                _mm512_mask_storeu_ps(out[unit] + first, mask, _mm512_cvtepi32_ps(least));
        }
    }
}

/* Compare a column's quarters and its cell; all quarters of a row come before all cells. */
FAST static void run_both(const Task *task, const Patch *patches, Py_ssize_t column, Tile *tiles)
{
    Py_ssize_t size = task->num_sources * task->num_targets;
    Py_ssize_t num_tiles = (task->num_targets + LANES - 1) / LANES;
    __m512i greatest[QUARTERS + 1];
    int written[QUARTERS + 1], is_moving = task->num_shifts > 1;
    Places places[QUARTERS];

    for (int part = 0; part < QUARTERS; part++) {
        find_places(task, part, 2, &places[part]);
        fill_tiles(task, patches, &places[part], 2, tiles + part * num_tiles);
    }
    for (int unit = 0; unit <= QUARTERS; unit++) {
        greatest[unit] = _mm512_setzero_si512();
        written[unit]  = 1;
    }
    for (int is_last = 0; is_last < 1 + is_moving; is_last++) {
        for (Py_ssize_t source = 0; source < task->num_sources; source++) {
            float *out[QUARTERS + 1];

            for (int unit = 0; unit <= QUARTERS; unit++)
                out[unit] = task->out + source * task->num_targets +
                            (unit == QUARTERS ? QUARTERS * task->num_columns + column
                                              : QUARTERS * column + unit) * size;
            compare_both(patches + source, places, is_last ? task->num_shifts : 1, tiles, task, out,
                         written, greatest);
        }
        if (!is_last)
            is_moving = 0;
        for (int unit = 0; unit <= QUARTERS && !is_last && task->num_shifts > 1; unit++) {
            double still = unit == QUARTERS ? task->still : task->still / QUARTERS;

            written[unit] = _mm512_reduce_max_epi32(greatest[unit]) > still;
            is_moving |= written[unit];
        }
    }
}

/* Return 0, or -1 where memory is missing. */
static int run(const Task *task)
{
    Py_ssize_t num_tiles = (task->num_targets + LANES - 1) / LANES;
    Patch *patches = calloc(task->num_sources, sizeof(*patches));
    int num_units = units_of(task->parts), num_sets = task->parts == BOTH ? QUARTERS : 1;
    Tile *tiles = aligned_alloc(64, num_sets * num_tiles * sizeof(*tiles));
    float *out = task->out;

    if (patches && tiles) {
        memset(tiles, 0, num_sets * num_tiles * sizeof(*tiles));
        for (Py_ssize_t column = 0; column < task->num_columns; column++) {
            for (Py_ssize_t source = 0; source < task->num_sources; source++) {
                cut_patch(task, task->sources[column * task->num_sources + source],
                          task->first_column + column, patches + source);
                prepare(patches + source, task->parts == 1 ? 1 : 2, task->follow);
            }
            if (task->parts == BOTH)
                run_both(task, patches, column, tiles);
            for (int part = 0; task->parts != BOTH && part < num_units; part++) {
                if (task->parts == 2)
                    run_quarters(task, patches, part, tiles, out);
                else
                    run_cell(task, patches, tiles, out);
                out += task->num_sources * task->num_targets;
            }
        }
    }
    free(tiles);
    free(patches);
    return patches && tiles ? 0 : -1;
}

static int is_fast(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
}

#else

static int run(const Task *task)
{
    return -1;
}

static int is_fast(void)
{
    return 0;
}

#endif

static const char *read_shifts(Task *task, const Py_buffer *shifts)
{
    const int8_t *pairs = shifts->buf;

    if (shifts->len < 2 || shifts->len % 2 || shifts->len / 2 > MAX_SHIFTS || pairs[0] || pairs[1])
        return "shifts must be pairs of which the first is none";
    task->num_shifts = (int)(shifts->len / 2);
    task->follow     = 0;
    memcpy(task->shifts, pairs, shifts->len);
    for (Py_ssize_t i = 0; i < shifts->len; i++) {
        int step = abs(pairs[i]);

        if (step > MAX_FOLLOW)
            return "a shift is too large";
        task->follow = step > task->follow ? step : task->follow;
    }
    return NULL;
}

/* Return what is wrong with the sizes of the buffers, or NULL. */
static const char *check(const Task *task, Py_ssize_t num_slots, const Py_buffer *luma,
                         const Py_buffer *chroma, const Py_buffer *sources, const Py_buffer *out)
{
    Py_ssize_t most = (Py_ssize_t)1 << 20;

    if (task->parts < 1 || task->parts > BOTH)
        return "parts must be 1, 2 or 3";
    if (num_slots < 1 || num_slots > most || task->height < LUMA || task->height > most ||
        task->width < LUMA || task->width > most || task->height % LUMA || task->width % LUMA)
        return "there are no whole cells";
    if (luma->len / task->height / task->width != num_slots ||
        luma->len != num_slots * task->height * task->width || chroma->len != luma->len / 2)
        return "luma and chroma do not fit together";
    if (task->num_columns < 1 || task->num_columns > most || task->first_column < 0 ||
        task->first_column + task->num_columns > task->width / LUMA || task->row < 0 ||
        task->row >= task->height / LUMA)
        return "the cells are outside the picture";
    if (task->num_targets < 1 || task->num_targets > task->num_sources || task->num_sources > most)
        return "there must be at least as many sources as targets";
    if (sources->len != task->num_columns * task->num_sources * (Py_ssize_t)sizeof(int32_t))
        return "sources do not fit the columns";
    if (out->len / (Py_ssize_t)sizeof(float) / task->num_sources / task->num_targets !=
            task->num_columns * units_of(task->parts) ||
        out->len % ((Py_ssize_t)sizeof(float) * task->num_sources * task->num_targets))
        return "the output does not fit";
    for (Py_ssize_t i = 0; i < task->num_columns * task->num_sources; i++)
        if (task->sources[i] < 0 || task->sources[i] >= num_slots)
            return "a source is no slot";
    return NULL;
}

PyDoc_STRVAR(least_distances_doc,
             "least_distances(luma, chroma, sources, shifts, out, size, place, num_targets, parts, "
             "still) -> None\n\nSee distances.pyi.");

static PyObject *least_distances(PyObject *module, PyObject *args)
{
    Py_buffer luma, chroma, sources, shifts, out;
    Py_ssize_t num_slots;
    Task task = { 0 };
    const char *wrong;
    int failed = 0;

    if (!PyArg_ParseTuple(args, "y*y*y*y*w*(nnn)(nnn)nid:least_distances", &luma, &chroma, &sources,
                          &shifts, &out, &num_slots, &task.height, &task.width, &task.row,
                          &task.first_column, &task.num_columns, &task.num_targets, &task.parts,
                          &task.still))
        return NULL;
    task.luma        = luma.buf;
    task.chroma      = chroma.buf;
    task.sources     = sources.buf;
    task.out         = out.buf;
    task.num_sources = task.num_columns < 1 ? 0
                                            : sources.len / (Py_ssize_t)sizeof(int32_t) / task.num_columns;
    wrong = is_fast() ? read_shifts(&task, &shifts) : "this processor lacks the instructions";
    if (!wrong)
        wrong = check(&task, num_slots, &luma, &chroma, &sources, &out);
    if (!wrong) {
        Py_BEGIN_ALLOW_THREADS
        failed = run(&task);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&luma);
    PyBuffer_Release(&chroma);
    PyBuffer_Release(&sources);
    PyBuffer_Release(&shifts);
    PyBuffer_Release(&out);
    if (wrong)
        return PyErr_Format(PyExc_ValueError, "%s", wrong);
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/*
 * Sum what a slot would spare in the order in which numpy sums up to 128 float32: eight sums side by
 * side, these in pairs, then the rest.
 */
static float sum_spared(const float *best, const float *shown, Py_ssize_t count, float floor)
{
    float sums[8] = { 0 }, total = 0;
    Py_ssize_t slot = 0;

    if (count >= 8) {
        for (; slot + 8 <= count; slot += 8)
            for (int i = 0; i < 8; i++) {
                float spared = best[slot + i] - shown[slot + i];

                sums[i] += spared > floor ? spared : floor;
            }
        total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }
    for (; slot < count; slot++) {
        float spared = best[slot] - shown[slot];

        total += spared > floor ? spared : floor;
    }
    return total;
}

PyDoc_STRVAR(sum_gains_doc, "sum_gains(between, best, units, floors, gains, num_slots) -> None\n\n"
                            "See distances.pyi.");

static PyObject *sum_gains(PyObject *module, PyObject *args)
{
    Py_buffer between, best, units, floors, gains;
    Py_ssize_t slots, count, most;
    int fits;

    if (!PyArg_ParseTuple(args, "y*y*y*y*w*n:sum_gains", &between, &best, &units, &floors, &gains,
                          &slots))
        return NULL;
    count = units.len / (Py_ssize_t)sizeof(int64_t);
    most  = slots < 1 || slots > 128 ? 0 : best.len / (slots * (Py_ssize_t)sizeof(float));
    fits  = most && best.len == most * slots * (Py_ssize_t)sizeof(float) &&
           gains.len == best.len && between.len == best.len * slots &&
           units.len == count * (Py_ssize_t)sizeof(int64_t) &&
           floors.len == count * (Py_ssize_t)sizeof(float);
    for (Py_ssize_t i = 0; fits && i < count; i++)
        fits = ((int64_t *)units.buf)[i] >= 0 && ((int64_t *)units.buf)[i] < most;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++) {
            int64_t unit = ((int64_t *)units.buf)[i];
            const float *here = (float *)best.buf + unit * slots;
            const float *shown = (float *)between.buf + unit * slots * slots;

            for (Py_ssize_t slot = 0; slot < slots; slot++)
                ((float *)gains.buf)[unit * slots + slot] =
                    sum_spared(here, shown + slot * slots, slots, ((float *)floors.buf)[i]);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&between);
    PyBuffer_Release(&best);
    PyBuffer_Release(&units);
    PyBuffer_Release(&floors);
    PyBuffer_Release(&gains);
    if (!fits)
        return PyErr_Format(PyExc_ValueError, "the sizes do not fit together");
    Py_RETURN_NONE;
}

/* What the swaps of a unit are found from; the tables are the unit's own. */
typedef struct Swaps {
    const float *between;  /* slots x slots, [s][t] of showing slot s at slot t */
    const float *best;     /* of what is shown */
    const float *second;   /* of the best kept slot but one */
    const int64_t *source; /* the kept slot that is shown */
    const uint8_t *kept;
    const uint8_t *may_drop;
    const double *keeping; /* what it costs to keep a slot */
    Py_ssize_t slots;
} Swaps;

/* Find the slot to keep instead of a kept one; of equal swaps the first. */
static void find_swap(const Swaps *unit, int64_t *add, int64_t *drop, double *most)
{
    double missed[128];

    *add = *drop = 0;
    *most        = -INFINITY;
    for (Py_ssize_t s = 0; s < unit->slots; s++) {
        const float *shown = unit->between + s * unit->slots;
        double spared      = 0;

        if (unit->kept[s])
            continue;
        memset(missed, 0, (size_t)unit->slots * sizeof(*missed));
        for (Py_ssize_t t = 0; t < unit->slots; t++) {
            float with_new = shown[t] < unit->best[t] ? shown[t] : unit->best[t];
            float without  = shown[t] < unit->second[t] ? shown[t] : unit->second[t];

            spared += unit->best[t] - with_new;
            missed[unit->source[t]] += without - with_new;
        }
        for (Py_ssize_t k = 0; k < unit->slots; k++) {
            double found = ((spared - missed[k]) - unit->keeping[s]) + unit->keeping[k];

            if (unit->kept[k] && unit->may_drop[k] && found > *most) {
                *most = found;
                *add  = s;
                *drop = k;
            }
        }
    }
}

PyDoc_STRVAR(best_swaps_doc, "best_swaps(between, best, second, source, kept, units, keeping, may_drop, "
                             "add, drop, spared, num_slots) -> None\n\nSee distances.pyi.");

static PyObject *best_swaps(PyObject *module, PyObject *args)
{
    enum { BETWEEN, BEST, SECOND, SOURCE, KEPT, UNITS, KEEPING, MAY_DROP, ADD, DROP, SPARED, TABLES };
    Py_buffer table[TABLES];
    Py_ssize_t slots, count, num_units, cells;
    int fits;

    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*y*y*w*w*w*n:best_swaps", &table[BETWEEN], &table[BEST],
                          &table[SECOND], &table[SOURCE], &table[KEPT], &table[UNITS],
                          &table[KEEPING], &table[MAY_DROP], &table[ADD], &table[DROP],
                          &table[SPARED], &slots))
        return NULL;
    count     = table[UNITS].len / (Py_ssize_t)sizeof(int64_t);
    num_units = slots < 1 || slots > 128 ? 0 : table[KEPT].len / slots;
    cells     = num_units * slots;
    fits      = num_units && table[KEPT].len == cells &&
           table[BEST].len == cells * (Py_ssize_t)sizeof(float) &&
           table[SECOND].len == table[BEST].len && table[BETWEEN].len == table[BEST].len * slots &&
           table[SOURCE].len == cells * (Py_ssize_t)sizeof(int64_t) &&
           table[UNITS].len == count * (Py_ssize_t)sizeof(int64_t) &&
           table[KEEPING].len == slots * (Py_ssize_t)sizeof(double) &&
           table[MAY_DROP].len == slots && table[ADD].len == table[UNITS].len &&
           table[DROP].len == table[UNITS].len &&
           table[SPARED].len == count * (Py_ssize_t)sizeof(double);
    for (Py_ssize_t i = 0; fits && i < count; i++)
        fits = ((int64_t *)table[UNITS].buf)[i] >= 0 && ((int64_t *)table[UNITS].buf)[i] < num_units;
    for (Py_ssize_t i = 0; fits && i < cells; i++)
        fits = ((int64_t *)table[SOURCE].buf)[i] >= 0 && ((int64_t *)table[SOURCE].buf)[i] < slots;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++) {
            int64_t first = ((int64_t *)table[UNITS].buf)[i] * slots;
            Swaps unit    = { .between  = (float *)table[BETWEEN].buf + first * slots,
                              .best     = (float *)table[BEST].buf + first,
                              .second   = (float *)table[SECOND].buf + first,
                              .source   = (int64_t *)table[SOURCE].buf + first,
                              .kept     = (uint8_t *)table[KEPT].buf + first,
                              .may_drop = table[MAY_DROP].buf,
                              .keeping  = table[KEEPING].buf,
                              .slots    = slots };

            find_swap(&unit, (int64_t *)table[ADD].buf + i, (int64_t *)table[DROP].buf + i,
                      (double *)table[SPARED].buf + i);
        }
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < TABLES; i++)
        PyBuffer_Release(&table[i]);
    if (!fits)
        return PyErr_Format(PyExc_ValueError, "the sizes do not fit together");
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    { "best_swaps", best_swaps, METH_VARARGS, best_swaps_doc },
    { "sum_gains", sum_gains, METH_VARARGS, sum_gains_doc },
    { "least_distances", least_distances, METH_VARARGS, least_distances_doc },
    { NULL },
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name    = "cv_reader_native.distances",
    .m_doc     = "Distances of cells between slots.",
    .m_size    = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit_distances(void)
{
    PyObject *module = PyModule_Create(&module_definition);

    if (module && PyModule_AddObject(module, "IS_FAST", PyBool_FromLong(is_fast())) < 0)
        Py_CLEAR(module);
    if (module && PyModule_AddIntConstant(module, "BOTH", BOTH) < 0)
        Py_CLEAR(module);
    return module;
}
