/*
 * Picture: one decoded picture, its planes and its signals, without copies.
 * SPDX-License-Identifier: Apache-2.0
 */

#include "decoder.h"

#include <libavutil/pixdesc.h>

typedef struct {
    PyObject_HEAD
    AVFrame *frame;
    int is_corrupt;
} Picture;

PyObject *picture_from_frame(AVFrame *frame, int is_corrupt)
{
    Picture *self = PyObject_New(Picture, &PictureType);

    if (!self) {
        av_frame_free(&frame);
        return NULL;
    }
    self->frame = frame;
    self->is_corrupt = is_corrupt;
    return (PyObject *)self;
}

static void picture_dealloc(Picture *self)
{
    av_frame_free(&self->frame);
    PyObject_Free(self);
}

static const CodecSignals *signals_of(const Picture *self)
{
    return self->frame->opaque_ref ? (const CodecSignals *)self->frame->opaque_ref->data : NULL;
}

static PyObject *get_picture_id(Picture *self, void *closure)
{
    return PyLong_FromLongLong(self->frame->pts);
}

static PyObject *get_pict_type(Picture *self, void *closure)
{
    return PyLong_FromLong(self->frame->pict_type);
}

static PyObject *get_is_key(Picture *self, void *closure)
{
    return PyBool_FromLong(self->frame->key_frame);
}

static PyObject *get_is_corrupt(Picture *self, void *closure)
{
    return PyBool_FromLong(self->is_corrupt);
}

static PyObject *get_is_turned(Picture *self, void *closure)
{
    return PyBool_FromLong(
        av_frame_get_side_data(self->frame, AV_FRAME_DATA_DISPLAYMATRIX) != NULL);
}

static PyObject *get_format(Picture *self, void *closure)
{
    const char *name = av_get_pix_fmt_name(self->frame->format);
    return PyUnicode_FromString(name ? name : "unknown");
}

static PyObject *get_size(Picture *self, void *closure)
{
    return Py_BuildValue("(ii)", self->frame->width, self->frame->height);
}

static PyObject *get_crop(Picture *self, void *closure)
{
    const AVFrame *f = self->frame;
    return Py_BuildValue("(nnnn)", (Py_ssize_t)f->crop_left, (Py_ssize_t)f->crop_top,
                         (Py_ssize_t)f->crop_right, (Py_ssize_t)f->crop_bottom);
}

static PyObject *get_color(Picture *self, void *closure)
{
    const AVFrame *f = self->frame;
    return Py_BuildValue("(ii)", (int)f->colorspace, (int)f->color_range);
}

static PyObject *get_flags(Picture *self, void *closure)
{
    const CodecSignals *signals = signals_of(self);
    return PyLong_FromUnsignedLong(signals ? signals->flags : 0);
}

static PyObject *get_bit_depth(Picture *self, void *closure)
{
    const AVPixFmtDescriptor *descriptor = av_pix_fmt_desc_get(self->frame->format);
    return PyLong_FromLong(descriptor ? descriptor->comp[0].depth : 0);
}

static PyObject *get_blocks(Picture *self, void *closure)
{
    const CodecSignals *signals = signals_of(self);
    if (!signals || !signals->residual)
        Py_RETURN_NONE;
    return Py_BuildValue("(ii)", (int)signals->block_stride, (int)signals->block_height);
}

static PyObject *get_layout(Picture *self, void *closure)
{
    const AVFrame *f = self->frame;
    const CodecSignals *signals = signals_of(self);
    const AVPixFmtDescriptor *descriptor = av_pix_fmt_desc_get(f->format);
    const int has_maps = signals && signals->residual;

    return Py_BuildValue("(iinnnnsiii)", f->width, f->height, (Py_ssize_t)f->crop_left,
                         (Py_ssize_t)f->crop_top, (Py_ssize_t)f->crop_right,
                         (Py_ssize_t)f->crop_bottom, descriptor ? descriptor->name : "unknown",
                         descriptor ? descriptor->comp[0].depth : 0,
                         has_maps ? (int)signals->block_stride : 0,
                         has_maps ? (int)signals->block_height : 0);
}

static PyObject *get_num_missing(Picture *self, void *closure)
{
    const CodecSignals *signals = signals_of(self);
    Py_ssize_t missing = 0;

    for (int y = 0; signals && y < signals->block_height; y++)
        for (int x = 0; x < signals->block_width; x++)
            missing += !(signals->state[y * signals->block_stride + x] & CODEC_SIGNALS_DECODED);
    return PyLong_FromSsize_t(missing);
}

static PyObject *picture_plane(Picture *self, PyObject *argument)
{
    const AVFrame *f = self->frame;
    const AVPixFmtDescriptor *descriptor = av_pix_fmt_desc_get(f->format);
    const long number = PyLong_AsLong(argument);
    PyObject *memory;
    AVBufferRef *owner;
    int height;

    if (number == -1 && PyErr_Occurred())
        return NULL;
    owner = number >= 0 && number < 4 ? av_frame_get_plane_buffer((AVFrame *)f, number) : NULL;
    if (!owner || !descriptor || f->linesize[number] <= 0) {
        PyErr_Format(PyExc_IndexError, "a picture of format %s has no plane %ld",
                     descriptor ? descriptor->name : "unknown", number);
        return NULL;
    }
    height = number == 1 || number == 2
           ? AV_CEIL_RSHIFT(f->height, descriptor->log2_chroma_h) : f->height;
    if (f->data[number] + (ptrdiff_t)height * f->linesize[number] > owner->data + owner->size) {
        PyErr_Format(PyExc_IndexError, "plane %ld ends outside of its buffer", number);
        return NULL;
    }
    memory = memory_from_buffer(owner, f->data[number], (Py_ssize_t)height * f->linesize[number]);
    return memory ? Py_BuildValue("(Ni)", memory, f->linesize[number]) : NULL;
}

static PyObject *picture_map(Picture *self, PyObject *argument)
{
    const CodecSignals *signals = signals_of(self);
    const char *name = PyUnicode_AsUTF8(argument);
    Py_ssize_t blocks;

    if (!name)
        return NULL;
    if (!signals || !signals->residual)
        Py_RETURN_NONE;
    blocks = (Py_ssize_t)signals->block_stride * signals->block_height;
    const struct { const char *name; const void *start; Py_ssize_t length; } maps[] = {
        { "residual", signals->residual,    blocks * 256 * (Py_ssize_t)sizeof(int16_t) },
        { "motion",   signals->motion[0],   blocks * 2 * 16 * 2 * (Py_ssize_t)sizeof(int16_t) },
        { "distance", signals->distance[0], blocks * 2 * 16 * (Py_ssize_t)sizeof(int16_t) },
        { "bits",     signals->bits,        blocks * (Py_ssize_t)sizeof(float) },
        { "qp",       signals->qp,          blocks },
        { "state",    signals->state,       blocks },
    };
    for (size_t i = 0; i < sizeof(maps) / sizeof(*maps); i++)
        if (!strcmp(name, maps[i].name))
            return memory_from_buffer(self->frame->opaque_ref, maps[i].start, maps[i].length);
    PyErr_Format(PyExc_KeyError, "no map is named %s", name);
    return NULL;
}

static PyGetSetDef picture_attributes[] = {
    { "picture_id",  (getter)get_picture_id,  NULL, "int, as it was sent with the packet", NULL },
    { "pict_type",   (getter)get_pict_type,   NULL, "int, FFmpeg's number of the type", NULL },
    { "is_key",      (getter)get_is_key,      NULL, "bool, decoding may begin here", NULL },
    { "is_corrupt",  (getter)get_is_corrupt,  NULL, "bool, errors were concealed", NULL },
    { "is_turned",   (getter)get_is_turned,   NULL, "bool, its data asks for a rotation", NULL },
    { "format",      (getter)get_format,      NULL, "str, FFmpeg's name of the format", NULL },
    { "size",        (getter)get_size,        NULL, "(width, height) before cropping", NULL },
    { "crop",        (getter)get_crop,        NULL, "(left, top, right, bottom)", NULL },
    { "color",       (getter)get_color,       NULL, "(matrix, range), FFmpeg's numbers", NULL },
    { "flags",       (getter)get_flags,       NULL, "int, of the signals", NULL },
    { "bit_depth",   (getter)get_bit_depth,   NULL, "int, of luma samples", NULL },
    { "blocks",      (getter)get_blocks,      NULL, "(width, height) of the maps or None", NULL },
    { "layout",      (getter)get_layout,      NULL, "size, crop, format, bit_depth, blocks", NULL },
    { "num_missing", (getter)get_num_missing, NULL, "int, blocks without data", NULL },
    { NULL },
};

static PyMethodDef picture_methods[] = {
    { "plane", (PyCFunction)picture_plane, METH_O, "plane(number) -> (Memory, bytes per row)" },
    { "map",   (PyCFunction)picture_map,   METH_O, "map(name) -> Memory, or None" },
    { NULL },
};

PyTypeObject PictureType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name      = "cv_reader_native._decoder.Picture",
    .tp_basicsize = sizeof(Picture),
    .tp_dealloc   = (destructor)picture_dealloc,
    .tp_flags     = Py_TPFLAGS_DEFAULT,
    .tp_getset    = picture_attributes,
    .tp_methods   = picture_methods,
    .tp_doc       = "A decoded picture; its memory is never copied.",
};
