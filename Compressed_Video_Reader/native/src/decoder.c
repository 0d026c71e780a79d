/*
 * Decoder: packets in, pictures out, with the interpreter released meanwhile.
 * SPDX-License-Identifier: Apache-2.0
 */

#include "decoder.h"

#include <libavutil/imgutils.h>

/* A damaged packet may report its error more than once; this many in a row end the call. */
#define MAX_ERRORS 64

typedef struct {
    PyObject_HEAD
    AVCodecContext *context;
    PyThread_type_lock lock;
    Soundness *soundness;
    int has_signals;
    unsigned long long num_errors;
} Decoder;

typedef struct {
    AVFrame **frames;
    size_t count, capacity;
} Frames;

static int frames_push(Frames *frames, AVFrame *frame)
{
    if (frames->count == frames->capacity) {
        const size_t capacity = frames->capacity ? 2 * frames->capacity : 8;
        AVFrame **grown = av_realloc_array(frames->frames, capacity, sizeof(*grown));
        if (!grown)
            return AVERROR(ENOMEM);
        frames->frames   = grown;
        frames->capacity = capacity;
    }
    frames->frames[frames->count++] = frame;
    return 0;
}

static void frames_free(Frames *frames)
{
    for (size_t i = 0; i < frames->count; i++)
        av_frame_free(&frames->frames[i]);
    av_freep(&frames->frames);
    frames->count = frames->capacity = 0;
}

/** Take out what the decoder has ready; without the interpreter. */
static int receive_all(Decoder *self, Frames *frames)
{
    for (int errors = 0; errors < MAX_ERRORS;) {
        AVFrame *frame = av_frame_alloc();
        int status;

        if (!frame)
            return AVERROR(ENOMEM);
        status = avcodec_receive_frame(self->context, frame);
        if (status >= 0)
            status = frames_push(frames, frame);
        if (status >= 0) {
            errors = 0;
            continue;
        }
        av_frame_free(&frame);
        if (status == AVERROR(EAGAIN) || status == AVERROR_EOF)
            return 0;
        if (status == AVERROR(ENOMEM))
            return status;
        self->num_errors++;
        errors++;
    }
    return 0;
}

/** Send a packet, or NULL for the end, and take out what is ready; without the interpreter. */
static int send_and_receive(Decoder *self, const AVPacket *packet, Frames *frames)
{
    for (;;) {
        const int sent = avcodec_send_packet(self->context, packet);
        const size_t before = frames->count;
        const int received = receive_all(self, frames);

        if (received < 0)
            return received;
        if (sent == AVERROR(ENOMEM))
            return sent;
        if (sent == AVERROR(EAGAIN) && frames->count > before)
            continue;
        if (sent < 0 && sent != AVERROR_EOF)
            self->num_errors++;
        return 0;
    }
}

/** Whether a picture is damaged, or made from one that is; a negative error without memory. */
static int is_corrupt(Decoder *self, const AVFrame *frame)
{
    int sound = 1;

    if (self->has_signals && frame->opaque_ref)
        sound = soundness_of(self->soundness, (const CodecSignals *)frame->opaque_ref->data);
    if (sound < 0)
        return sound;
    return !sound || frame->flags & AV_FRAME_FLAG_CORRUPT || frame->decode_error_flags;
}

static PyObject *pictures_from_frames(Decoder *self, Frames *frames)
{
    PyObject *list = PyList_New(frames->count);

    for (size_t i = 0; list && i < frames->count; i++) {
        const int corrupt = is_corrupt(self, frames->frames[i]);
        PyObject *picture;

        if (corrupt < 0) {
            Py_DECREF(list);
            return PyErr_NoMemory();
        }
        picture = picture_from_frame(frames->frames[i], corrupt);
        frames->frames[i] = NULL;
        if (!picture)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, picture);
    }
    return list;
}

static PyObject *decode_packet(Decoder *self, const AVPacket *packet)
{
    Frames frames = { NULL };
    PyObject *pictures = NULL;
    int status;

    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    status = send_and_receive(self, packet, &frames);
    PyThread_release_lock(self->lock);
    Py_END_ALLOW_THREADS

    if (status < 0)
        PyErr_NoMemory();
    else
        pictures = pictures_from_frames(self, &frames);
    frames_free(&frames);
    return pictures;
}

static PyObject *decoder_decode(Decoder *self, PyObject *args)
{
    Py_buffer data;
    long long picture_id;
    int maps = 1;
    AVPacket *packet;
    PyObject *pictures = NULL;

    if (!PyArg_ParseTuple(args, "y*L|p:decode", &data, &picture_id, &maps))
        return NULL;
    if (self->has_signals)
        self->context->export_side_data = maps ? CODEC_SIGNALS_EXPORT : CODEC_SIGNALS_TRACE;
    packet = av_packet_alloc();
    /* The decoder reads past the end, so that it needs a padded copy. */
    if (data.len > INT_MAX - AV_INPUT_BUFFER_PADDING_SIZE || !packet ||
        av_new_packet(packet, (int)data.len) < 0) {
        PyErr_NoMemory();
    } else {
        memcpy(packet->data, data.buf, data.len);
        packet->pts = picture_id;
        pictures = decode_packet(self, packet);
    }
    av_packet_free(&packet);
    PyBuffer_Release(&data);
    return pictures;
}

static PyObject *decoder_finish(Decoder *self, PyObject *none)
{
    PyObject *pictures = decode_packet(self, NULL);

    /* From here on it takes packets again, as from the start. */
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    avcodec_flush_buffers(self->context);
    soundness_restart(self->soundness);
    PyThread_release_lock(self->lock);
    Py_END_ALLOW_THREADS
    return pictures;
}

static int configure(AVCodecContext *context, const Py_buffer *extradata, int num_threads,
                     long long max_pixels, int num_reordered, int skip_loop_filter)
{
    context->thread_count   = num_threads;
    context->thread_type    = FF_THREAD_FRAME;
    context->max_pixels     = max_pixels;
    /* Where H.264 does not say it, a decoder that finds out on the way loses pictures. */
    context->has_b_frames   = num_reordered;
    /* The maps belong to whole pictures; the caller crops both alike. */
    context->apply_cropping = 0;
    if (skip_loop_filter)
        context->skip_loop_filter = AVDISCARD_ALL;
    if (extradata->len > INT_MAX - AV_INPUT_BUFFER_PADDING_SIZE)
        return AVERROR(ENOMEM);
    if (extradata->len) {
        context->extradata = av_mallocz(extradata->len + AV_INPUT_BUFFER_PADDING_SIZE);
        if (!context->extradata)
            return AVERROR(ENOMEM);
        memcpy(context->extradata, extradata->buf, extradata->len);
        context->extradata_size = (int)extradata->len;
    }
    return 0;
}

static int open_codec(Decoder *self, const char *name, const Py_buffer *extradata,
                      int num_threads, long long max_pixels, int num_reordered,
                      int skip_loop_filter)
{
    const AVCodec *codec = avcodec_find_decoder_by_name(name);
    int status;

    if (!codec) {
        PyErr_Format(PyExc_LookupError, "no decoder for %s in this build", name);
        return -1;
    }
    self->context = avcodec_alloc_context3(codec);
    status = self->context ? configure(self->context, extradata, num_threads, max_pixels,
                                       num_reordered, skip_loop_filter) : AVERROR(ENOMEM);
    if (status >= 0) {
        self->context->opaque = self->has_signals ? self->soundness : NULL;
        Py_BEGIN_ALLOW_THREADS
        status = avcodec_open2(self->context, codec, NULL);
        Py_END_ALLOW_THREADS
    }
    if (status == AVERROR(ENOMEM)) {
        PyErr_NoMemory();
    } else if (status < 0) {
        char reason[AV_ERROR_MAX_STRING_SIZE];
        av_strerror(status, reason, sizeof(reason));
        PyErr_Format(PyExc_ValueError, "the %s decoder does not take this stream: %s", name,
                     reason);
    }
    return status < 0 ? -1 : 0;
}

static PyObject *decoder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "codec_name", "extradata", "num_threads", "max_pixels", "signals",
                             "num_reordered", "skip_loop_filter", NULL };
    const char *name;
    Py_buffer extradata = { NULL };
    int num_threads = 1, signals = 1, num_reordered = 0, skip_loop_filter = 0;
    long long max_pixels = 1 << 26;
    Decoder *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sy*|$iLpip:Decoder", names, &name, &extradata,
                                     &num_threads, &max_pixels, &signals, &num_reordered,
                                     &skip_loop_filter))
        return NULL;
    self = (Decoder *)type->tp_alloc(type, 0);
    if (self)
        self->has_signals = signals;
    if (self && (!(self->lock = PyThread_allocate_lock()) ||
                 !(self->soundness = soundness_new()) ||
                 open_codec(self, name, &extradata, num_threads, max_pixels, num_reordered,
                            skip_loop_filter) < 0)) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        Py_CLEAR(self);
    }
    PyBuffer_Release(&extradata);
    return (PyObject *)self;
}

static void decoder_dealloc(Decoder *self)
{
    Py_BEGIN_ALLOW_THREADS
    avcodec_free_context(&self->context);
    soundness_free(self->soundness);
    Py_END_ALLOW_THREADS
    if (self->lock)
        PyThread_free_lock(self->lock);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *get_num_errors(Decoder *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(self->num_errors);
}

static PyGetSetDef decoder_attributes[] = {
    { "num_errors", (getter)get_num_errors, NULL, "int, errors that the decoder reported", NULL },
    { NULL },
};

static PyMethodDef decoder_methods[] = {
    { "decode", (PyCFunction)decoder_decode, METH_VARARGS,
      "decode(data, picture_id, maps=True) -> list of pictures that are ready" },
    { "finish", (PyCFunction)decoder_finish, METH_NOARGS,
      "finish() -> list of pictures held back; then it takes packets as from the start" },
    { NULL },
};

PyTypeObject DecoderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name      = "cv_reader_native._decoder.Decoder",
    .tp_basicsize = sizeof(Decoder),
    .tp_dealloc   = (destructor)decoder_dealloc,
    .tp_flags     = Py_TPFLAGS_DEFAULT,
    .tp_getset    = decoder_attributes,
    .tp_methods   = decoder_methods,
    .tp_new       = decoder_new,
    .tp_doc       = "FFmpeg's decoder for one stream.",
};
