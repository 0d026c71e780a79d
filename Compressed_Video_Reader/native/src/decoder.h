/*
 * cv_reader_native: a decoder with a view into what it knows about each picture.
 * SPDX-License-Identifier: Apache-2.0
 */

#ifndef CV_READER_NATIVE_DECODER_H
#define CV_READER_NATIVE_DECODER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>

#include <libavcodec/avcodec.h>
#include <libavcodec/codec_signals.h>

extern PyTypeObject DecoderType;
extern PyTypeObject PictureType;
extern PyTypeObject MemoryType;

/** A decoded picture as a Python object; takes the frame over, also where it fails. */
PyObject *picture_from_frame(AVFrame *frame, int is_corrupt);

/** Part of a reference-counted buffer, which it keeps alive, as a readable Python buffer. */
PyObject *memory_from_buffer(AVBufferRef *owner, const void *start, Py_ssize_t length);

typedef struct Soundness Soundness;

/** What a decoder's AVCodecContext.opaque points to; NULL without memory. */
Soundness *soundness_new(void);

/** After the decoder is flushed: what comes next refers to nothing before. */
void soundness_restart(Soundness *soundness);

/** Whether a picture that came out of the decoder is sound; a negative error without memory. */
int soundness_of(Soundness *soundness, const CodecSignals *signals);

void soundness_free(Soundness *soundness);

#endif
