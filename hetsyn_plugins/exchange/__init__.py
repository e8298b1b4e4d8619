"""From one framework or file to another: conversion, checkpoints, and which frameworks are there."""
