/*
 * Memory: part of a buffer of FFmpeg, readable from Python without a copy.
 *
 * It holds a reference of its own, so that it stays valid after the picture, the decoder and the
 * file are gone. The memory goes back to the decoder's pool with the last array that looks at it.
 * SPDX-License-Identifier: Apache-2.0
 */

#include "decoder.h"

typedef struct {
    PyObject_HEAD
    AVBufferRef *owner;
    const void *start;
    Py_ssize_t length;
} Memory;

PyObject *memory_from_buffer(AVBufferRef *owner, const void *start, Py_ssize_t length)
{
    Memory *self = PyObject_New(Memory, &MemoryType);

    if (!self)
        return NULL;
    self->start  = start;
    self->length = length;
    self->owner  = av_buffer_ref(owner);
    if (!self->owner) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void memory_dealloc(Memory *self)
{
    av_buffer_unref(&self->owner);
    PyObject_Free(self);
}

static int memory_get_buffer(Memory *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, (void *)self->start, self->length,
                             /* readonly */ 1, flags);
}

static PyBufferProcs memory_as_buffer = {
    .bf_getbuffer = (getbufferproc)memory_get_buffer,
};

PyTypeObject MemoryType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name      = "cv_reader_native._decoder.Memory",
    .tp_basicsize = sizeof(Memory),
    .tp_dealloc   = (destructor)memory_dealloc,
    .tp_as_buffer = &memory_as_buffer,
    .tp_flags     = Py_TPFLAGS_DEFAULT,
    .tp_doc       = "Read-only memory of a decoded picture, valid for as long as it is held.",
};
