/*
 * Soundness: which decoded pictures are right, and which were made from damaged or lost ones.
 *
 * Pictures are judged in decoding order. One is unsound if its own data is damaged or incomplete,
 * if a block refers to a picture that is not there, or to one that is unsound. What follows a
 * recovery point, in decoding and in presentation order, refers to nothing before it that matters:
 * so the standard promises, and it holds where nothing was damaged since.
 * SPDX-License-Identifier: Apache-2.0
 */

#include "decoder.h"

typedef struct {
    int64_t sequence, picture_id, recovered_from;
    int is_damaged, is_missing_reference, num_references;
    int64_t references[CODEC_SIGNALS_MAX_REFS];
} Report;

typedef struct {
    int64_t sequence, picture_id;
    int is_sound;
} Verdict;

struct Soundness {
    CodecSignalsSink sink; /* first, so that it is found from there */
    pthread_mutex_t lock;
    Report *reports;       /* not judged yet */
    Verdict *verdicts;     /* in decoding order */
    size_t num_reports, max_reports, num_verdicts, max_verdicts;
    int64_t next, last_damage, recovery_sequence, recovery_picture;
    int is_out_of_memory;
};

static int is_incomplete(const CodecSignals *signals)
{
    if (signals->flags & CODEC_SIGNALS_INTERLACED)
        return 0;
    for (int y = 0; y < signals->block_height; y++)
        for (int x = 0; x < signals->block_width; x++)
            if (!(signals->state[y * signals->block_stride + x] & CODEC_SIGNALS_DECODED))
                return 1;
    return 0;
}

/** Make room for one more; returns whether there is. */
static int grow(void *items, size_t size, size_t count, size_t *max)
{
    void **array = items;

    if (count == *max) {
        const size_t more = *max ? 2 * *max : 64;
        void *grown = av_realloc_array(*array, more, size);

        if (!grown)
            return 0;
        *array = grown;
        *max   = more;
    }
    return 1;
}

/** The sink's function: take down what a picture says of itself. */
static void report(CodecSignalsSink *sink, const CodecSignals *signals)
{
    Soundness *self = (Soundness *)sink;
    const int is_damaged = signals->flags & CODEC_SIGNALS_DAMAGED || is_incomplete(signals);

    pthread_mutex_lock(&self->lock);
    if (!grow(&self->reports, sizeof(*self->reports), self->num_reports, &self->max_reports)) {
        self->is_out_of_memory = 1;
    } else {
        Report *to = &self->reports[self->num_reports++];

        to->sequence             = signals->sequence;
        to->picture_id           = signals->picture_id;
        to->recovered_from       = signals->recovered_from;
        to->is_damaged           = is_damaged;
        to->is_missing_reference = signals->flags & CODEC_SIGNALS_MISSING_REF;
        to->num_references       = 0;
        for (int i = 1; i < signals->num_references; i++)
            if (signals->references[i].is_used)
                to->references[to->num_references++] = signals->references[i].picture_id;
    }
    pthread_mutex_unlock(&self->lock);
}

/** The latest picture of an id, or NULL. */
static const Verdict *find(const Soundness *self, int64_t picture_id)
{
    for (size_t i = self->num_verdicts; i-- > 0;)
        if (self->verdicts[i].picture_id == picture_id)
            return &self->verdicts[i];
    return NULL;
}

static int is_sound(const Soundness *self, const Report *picture)
{
    const int is_after_recovery = self->recovery_sequence == picture->sequence ||
                                  picture->picture_id > self->recovery_picture;

    if (picture->is_damaged || picture->is_missing_reference)
        return 0;
    for (int i = 0; i < picture->num_references; i++) {
        const Verdict *reference = find(self, picture->references[i]);

        if (reference && reference->is_sound)
            continue;
        if (!is_after_recovery || !reference || reference->sequence >= self->recovery_sequence)
            return 0;
    }
    return 1;
}

static void judge(Soundness *self, const Report *picture)
{
    if (picture->is_damaged)
        self->last_damage = picture->sequence;
    if (picture->recovered_from >= 0 && self->last_damage < picture->recovered_from) {
        self->recovery_sequence = picture->sequence;
        self->recovery_picture  = picture->picture_id;
    }
    if (!grow(&self->verdicts, sizeof(*self->verdicts), self->num_verdicts, &self->max_verdicts)) {
        self->is_out_of_memory = 1;
        return;
    }
    self->verdicts[self->num_verdicts] = (Verdict) {
        picture->sequence, picture->picture_id, is_sound(self, picture)
    };
    self->num_verdicts++;
}

/** Judge the next picture in decoding order. */
static void step(Soundness *self)
{
    size_t i = 0;

    while (i < self->num_reports && self->reports[i].sequence != self->next)
        i++;
    if (i < self->num_reports) {
        judge(self, &self->reports[i]);
        self->reports[i] = self->reports[--self->num_reports];
    } else {
        self->last_damage = self->next; /* begun, but never finished */
    }
    self->next++;
}

int soundness_of(Soundness *self, const CodecSignals *signals)
{
    const Verdict *verdict = NULL;

    pthread_mutex_lock(&self->lock);
    while (self->next <= signals->sequence)
        step(self);
    for (size_t i = self->num_verdicts; i-- > 0 && !verdict;)
        if (self->verdicts[i].sequence == signals->sequence)
            verdict = &self->verdicts[i];
    pthread_mutex_unlock(&self->lock);
    return self->is_out_of_memory ? AVERROR(ENOMEM) : verdict && verdict->is_sound;
}

void soundness_restart(Soundness *self)
{
    self->num_reports = self->num_verdicts = 0;
    self->next = self->sink.num_before = self->sink.num_started;
    self->last_damage = self->recovery_sequence = -1;
    self->recovery_picture = INT64_MAX;
}

Soundness *soundness_new(void)
{
    Soundness *self = av_mallocz(sizeof(*self));

    if (self) {
        pthread_mutex_init(&self->lock, NULL);
        self->sink.finished = report;
        soundness_restart(self);
    }
    return self;
}

void soundness_free(Soundness *self)
{
    if (!self)
        return;
    pthread_mutex_destroy(&self->lock);
    av_free(self->reports);
    av_free(self->verdicts);
    av_free(self);
}
